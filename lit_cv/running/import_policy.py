"""What the parser may make of a configuration: which modules it may import, and how far its values may unfold."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import yaml
from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings
from jsonargparse._loaders_dumpers import loaders

from lit_cv.plain_values import require_plain
from lit_cv.trust import LIBRARIES, is_trusted, loaded_class, trusted_modules

__all__ = ["limited_imports", "untrusted_classes"]

_PARTS = (L.LightningModule, L.LightningDataModule, L.Callback)
_DENIED = (  # of the libraries: what runs commands, or calls what a name says
    "lit_cv.cli",
    "lit_cv.running",
    "lit_cv.studies",
    "lit_cv.__main__",
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.callbacks.lambda_function",
)
_NAMED = ("model", "data", "source", "target", "callbacks", "logger", "profiler", "plugins", "strategy")
_SETTINGS = ("import_path_verdicts", "import_paths_enforced", "instantiate_subclass_spec_in_any")


@contextmanager
def limited_imports(configuration: Any = None) -> Iterator[None]:
    """Let jsonargparse import this library's and Lightning's classes within, and those of modules the user named.

    YAML that it reads by itself, of an option or a further file, may not unfold without end.

    Args:
        configuration: Configuration whose classes may be named, too, if the program has loaded them already.
    """
    before = {name: parsing_settings[name] for name in _SETTINGS}
    load = loaders["yaml"]

    def load_plain(text: str) -> Any:
        value = load(text)
        try:
            require_plain(value, "the configuration", leaves=object)
        except ValueError as error:
            raise yaml.YAMLError(str(error)) from None
        return value

    loaded = [path for path in class_paths(configuration) if _is_part(loaded_class(path))]
    # Of what it denies by default, such as `os`, nothing becomes allowed by being named.
    named = [module for module in trusted_modules() if module not in before["import_path_verdicts"]]
    set_parsing_settings(
        import_path_denylist=["*", *_DENIED],
        import_path_allowlist=[*LIBRARIES, *named, *loaded],
        instantiate_subclass_spec_in_any=False,
    )
    loaders["yaml"] = load_plain
    try:
        yield
    finally:
        loaders["yaml"] = load
        parsing_settings.update(before)


def _is_part(cls: type | None) -> bool:
    return cls is not None and issubclass(cls, _PARTS)


def class_paths(value: Any) -> Iterator[str]:
    """Yield the texts of a configuration that may name a class with its module."""
    if isinstance(value, str) and _is_path(value):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from class_paths(part)


def untrusted_classes(value: Any, section: str = "") -> list[str]:
    """Return the classes that a configuration names and that may not be imported.

    Args:
        value: The configuration, or a part of it.
        section: Name of the part: that of a model, of data or of an object of the Trainer names a class by its text.
    """
    found = []
    if isinstance(value, dict):
        path = value.get("class_path")
        if isinstance(path, str) and _is_path(path) and not is_trusted(path):
            found.append(path)
        found += [path for name, part in value.items() for path in untrusted_classes(part, str(name))]
    elif isinstance(value, list):
        found += [path for part in value for path in untrusted_classes(part, section)]
    elif section in _NAMED and isinstance(value, str) and _is_path(value) and not is_trusted(value):
        found.append(value)
    return found


def _is_path(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))
