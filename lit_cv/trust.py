"""Which class names in a file may be loaded: those of this library, and of modules that the user named.

A file is data. A name in it (in a checkpoint, a configuration, a comparison) becomes a class only under two conditions.
The class is a subclass of the expected one, which is checked before anything is called. And its module belongs to this
library or to Lightning, is already loaded by the running program, or was named by the user. For classes of installed
packages such as torch, being loaded is not enough if the expected class comes from such a package, too. Pure Python.
"""

import inspect
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from lit_cv.errors import option, setting

__all__ = [
    "LIBRARIES",
    "UntrustedClassError",
    "is_dotted_name",
    "is_trusted",
    "loaded_class",
    "names_of_files",
    "require_trusted",
    "trust_option",
    "trusted_modules",
    "untrusted_error",
]

LIBRARIES = ("lit_cv", "datamodules", "lightning", "pytorch_lightning")
"""Packages whose classes a file may name."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_trusted: ContextVar[frozenset[str] | None] = ContextVar("_trusted", default=None)


class UntrustedClassError(ValueError):
    """A file names a class of a module that the user has not named."""


@contextmanager
def names_of_files(trusted: Iterable[str] = ()) -> Iterator[None]:
    """Treat class names that are resolved inside the context as text from a file; outside, all names are trusted.

    Args:
        trusted: Modules that the user named, in addition to those of an outer `names_of_files`.
    """
    token = _trusted.set((_trusted.get() or frozenset()) | frozenset(trusted))
    try:
        yield
    finally:
        _trusted.reset(token)


def trusted_modules() -> frozenset[str]:
    """Return the modules that the user named."""
    return _trusted.get() or frozenset()


def is_trusted(path: str) -> bool:
    """Return whether the module of a named class may be imported: see the docstring of this file."""
    named = _trusted.get()
    if "__main__" in path.split("."):
        return loaded_class(path) is not None
    if named is None or path.partition(".")[0] in LIBRARIES:
        return True
    return any(f"{path}.".startswith(f"{module}.") for module in named) or loaded_class(path) is not None


def loaded_class(path: str) -> type | None:
    """Return the class of a dotted name if its module is loaded, else `None`; nothing is imported."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        member: Any = sys.modules.get(".".join(parts[:length]))
        if member is None:
            continue
        for part in parts[length:]:
            member = inspect.getattr_static(member, part, None)
        return member if isinstance(member, type) else None
    return None


def is_dotted_name(name: str) -> bool:
    """Return whether a name is `module.Name`, not a short name."""
    return _PATH.fullmatch(name) is not None


def require_trusted(path: str, base: type, source: str) -> None:
    """Refuse a name from a file if its module is not trusted.

    Args:
        path: The name.
        base: The expected base class. If it belongs to an installed package, classes of installed packages are not
            trusted merely because they are loaded.
        source: Where the name was found, for messages.

    Raises:
        UntrustedClassError: If the name is refused.
    """
    if not is_trusted(path):
        raise untrusted_error(path, source, base.__name__)
    if not _is_library(base.__module__) and _only_loaded(path) and _is_installed(path.partition(".")[0]):
        raise _no_consent(path, source)


def _is_library(module: str) -> bool:
    return module.partition(".")[0] in LIBRARIES


def _only_loaded(path: str) -> bool:
    """Return whether a name comes from a file, and its module is neither of `LIBRARIES` nor named by the user."""
    named = _trusted.get()
    return named is not None and not _is_library(path) and not any(f"{path}.".startswith(f"{each}.") for each in named)


def _is_installed(package: str) -> bool:
    """Return whether a loaded package belongs to Python's standard library or is installed.

    Loading it does not mean that the user trusts all its classes that derive from one of torch or torchmetrics: there
    are many, and some read or download files.
    """
    origin = getattr(getattr(sys.modules.get(package), "__spec__", None), "origin", None) or ""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return package in sys.stdlib_module_names or any(Path(origin).is_relative_to(place) for place in places if origin)


def _is_known(path: str) -> bool:
    """Return whether a module is of the standard library or loaded: then the class itself is of the wrong kind."""
    return path.partition(".")[0] in sys.stdlib_module_names or path.rpartition(".")[0] in sys.modules


def untrusted_error(path: str, source: str, kind: str = "what is wanted here") -> UntrustedClassError:
    """Return the error about a class whose module may not be imported.

    Args:
        path: The name of the class.
        source: Where the name was found.
        kind: What the class must derive from.
    """
    if _is_known(path):
        return UntrustedClassError(f"{source} names {path}, which is not a subclass of {kind}.")
    return _no_consent(path, source)


def _no_consent(path: str, source: str) -> UntrustedClassError:
    module = path.partition(".")[0]
    return UntrustedClassError(
        f"{source} names {path}, code outside lit_cv that could do anything: if you trust it, name its module "
        f"({setting('trusted', module, names_of_files)})."
    )


def trust_option(*parts: object) -> str:
    """Return the option with which a later command may load these objects from files, "" if none is needed.

    It names the modules of their classes, and those in their hyperparameters, that are not of `LIBRARIES`.

    Example:
        >>> trust_option(1), trust_option(inspect)
        ('', '')
    """
    modules = [type(part).__module__.partition(".")[0] for part in parts if part is not None]
    modules += [module for part in parts for module in _modules_in(getattr(part, "hparams", {}))]
    custom = [module for module in dict.fromkeys(modules) if module not in (*LIBRARIES, "builtins", "__main__")]
    if not custom or not option("trusted", names_of_files):
        return ""
    return f" {setting('trusted', ','.join(custom), names_of_files)}"


def _modules_in(value: object) -> Iterator[str]:
    """Yield the modules of dotted names in plain data, if the user named them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _modules_in(part)
    elif isinstance(value, str) and is_dotted_name(value) and (top := value.partition(".")[0]) in trusted_modules():
        yield top
