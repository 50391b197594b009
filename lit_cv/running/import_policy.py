"""Limits on what the parser may do with a configuration: the modules it may import, and the size of its values."""

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

__all__ = ["restricted_imports", "untrusted_classes"]

_PARTS = (L.LightningModule, L.LightningDataModule, L.Callback)
_DENIED = (  # parts of the libraries that run commands or call arbitrary names
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
def restricted_imports(configuration: Any = None) -> Iterator[None]:
    """Restrict jsonargparse to classes of this library, of Lightning and of modules that the user named.

    YAML that it reads from options or further files is limited in size, so that aliases cannot expand without bound.

    Args:
        configuration: Configuration whose classes are allowed, too, if their modules are already loaded.
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
    # Modules that it denies by default, such as `os`, stay denied even if the user names them.
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
    """Yield the strings of a configuration that may be import paths of classes."""
    if isinstance(value, str) and _is_path(value):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from class_paths(part)


def untrusted_classes(value: Any, section: str = "") -> list[str]:
    """Return the class paths in a configuration that must not be imported.

    Args:
        value: The configuration, or a part of it.
        section: Name of the part; strings count as class paths in sections such as `model`, `data` and `callbacks`.
    """
    paths = []
    if isinstance(value, dict):
        path = value.get("class_path")
        if isinstance(path, str) and _is_path(path) and not is_trusted(path):
            paths.append(path)
        paths += [path for name, part in value.items() for path in untrusted_classes(part, str(name))]
    elif isinstance(value, list):
        paths += [path for part in value for path in untrusted_classes(part, section)]
    elif section in _NAMED and isinstance(value, str) and _is_path(value) and not is_trusted(value):
        paths.append(value)
    return paths


def _is_path(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))
