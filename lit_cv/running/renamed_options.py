"""Accept old option names in configurations and on the command line, see `lit_cv.renamed_arguments`."""

from collections.abc import Mapping
from typing import Any

import datamodules
import lit_cv
from lit_cv.renamed_arguments import renamed_arguments, use_new_names
from lit_cv.trust import loaded_class

__all__ = ["rename_in_configuration", "rename_typed_options"]

_SECTIONS = ("model", "data")


def rename_in_configuration(configuration: Mapping[str, Any], classes: Mapping[str, str | None]) -> None:
    """Rename options with old names, in place.

    Args:
        configuration: Content of a file.
        classes: Classes of the model and the data, for a file that names none.
    """
    for name in _SECTIONS:
        _rename(configuration.get(name), classes.get(name), name)


def rename_typed_options(args: list[str], classes: Mapping[str, str | None]) -> list[str]:
    """Replace old option names by the new ones.

    Args:
        args: The options and their values, as typed.
        classes: Classes of the model and the data.
    """
    return [_renamed_token(token, classes) if token.startswith("--") else token for token in args]


def _rename(section: Any, class_path: str | None, where: str) -> None:
    if isinstance(section, list):
        for entry in section:
            _rename(entry, None, where)
    if not isinstance(section, dict):
        return
    arguments = section.get("init_args") if {"class_path", "init_args"} & set(section) else section
    if not isinstance(arguments, dict):
        return
    cls = _class(section.get("class_path", class_path))
    if cls is not None:
        use_new_names(cls, arguments, f"{where}.")
    for name, value in arguments.items():
        _rename(value, None, f"{where}.{name}")


def _renamed_token(token: str, classes: Mapping[str, str | None]) -> str:
    option, equals, value = token.partition("=")
    section, _, name = option[2:].replace(".init_args.", ".").partition(".")
    cls = _class(classes.get(section)) if section in _SECTIONS else None
    new = renamed_arguments(cls).get(name) if cls is not None else None
    if cls is None or new is None:
        return token
    use_new_names(cls, {name: value}, f"--{section}.")
    return f"--{section}.{new}{equals}{value}"


def _class(path: Any) -> type | None:
    if not isinstance(path, str):
        return None
    cls = loaded_class(path) if "." in path else getattr(datamodules, path, getattr(lit_cv, path, None))
    return cls if isinstance(cls, type) else None
