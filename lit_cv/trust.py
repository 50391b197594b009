"""Which names of a file may become code: those of this library, and of modules that the user named.

A file is data. A name in it (of a checkpoint, a configuration, a comparison) becomes a class only if the class is a
subclass of what is wanted, which is checked before anything is called, and only if its module is of this library or of
Lightning, is loaded already by the program that asks, or was named by the user. That an installed package such as torch
is loaded says nothing about the many classes in it that derive from its own. Pure Python.
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
    """Take the names of classes within for those of a file; outside they are those of the program itself.

    Args:
        trusted: Modules that the user named, beside those of an outer `names_of_files`.
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
    """Tell whether the module of a class may be imported because a name asks for it: see the module's docstring."""
    named = _trusted.get()
    if "__main__" in path.split("."):
        return loaded_class(path) is not None
    if named is None or path.partition(".")[0] in LIBRARIES:
        return True
    return any(f"{path}.".startswith(f"{module}.") for module in named) or loaded_class(path) is not None


def loaded_class(path: str) -> type | None:
    """Return the class of a name if the program has loaded its module, `None` otherwise; nothing is imported."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:length]))
        if found is None:
            continue
        for part in parts[length:]:
            found = inspect.getattr_static(found, part, None)
        return found if isinstance(found, type) else None
    return None


def is_dotted_name(name: str) -> bool:
    """Return whether a name is that of something in a module, `module.Name`, and not a short name."""
    return _PATH.fullmatch(name) is not None


def require_trusted(path: str, base: type, source: str) -> None:
    """Refuse a name of a file whose module the user would have to name.

    Args:
        path: The name.
        base: What is wanted. If it is a class of an installed package, others of such packages are not taken because
            they are loaded.
        source: What names it, for the message.

    Raises:
        UntrustedClassError: If it is such a name.
    """
    if not is_trusted(path):
        raise untrusted_error(path, source, base.__name__)
    if not _is_own(base.__module__) and _only_loaded(path) and _is_installed(path.partition(".")[0]):
        raise _no_consent(path, source)


def _is_own(module: str) -> bool:
    return module.partition(".")[0] in LIBRARIES


def _only_loaded(path: str) -> bool:
    """Return whether the name is a file's and its module neither this library's nor one that the user named."""
    named = _trusted.get()
    return named is not None and not _is_own(path) and not any(f"{path}.".startswith(f"{each}.") for each in named)


def _is_installed(package: str) -> bool:
    """Return whether a loaded package is Python's own or an installed one, of which the user may not know.

    That it is loaded is no word of the user's for those of its classes that derive from one of torch or torchmetrics:
    they are many, and some load files or download them.
    """
    origin = getattr(getattr(sys.modules.get(package), "__spec__", None), "origin", None) or ""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return package in sys.stdlib_module_names or any(Path(origin).is_relative_to(place) for place in places if origin)


def _is_known(path: str) -> bool:
    """Tell whether the module of a name is Python's own, or loaded: then the name itself is not what is wanted."""
    return path.partition(".")[0] in sys.stdlib_module_names or path.rpartition(".")[0] in sys.modules


def untrusted_error(path: str, source: str, kind: str = "what is wanted here") -> UntrustedClassError:
    """Return the error about a class whose module may not be imported.

    Args:
        path: The name of the class.
        source: What names it.
        kind: What the class must derive from.
    """
    if _is_known(path):
        return UntrustedClassError(f"{source} names {path}, which is not a subclass of {kind}.")
    return _no_consent(path, source)


def _no_consent(path: str, source: str) -> UntrustedClassError:
    module = path.partition(".")[0]
    return UntrustedClassError(
        f"{source} names {path}, code that is not of lit_cv and could do anything: if you trust it, name its module "
        f"({setting('trusted', module, names_of_files)})."
    )


def trust_option(*parts: object) -> str:
    """Return the option that lets a later command load these objects from files, "" if all are of a library.

    That is of the modules of their classes, and of those that their hyperparameters name.

    Example:
        >>> trust_option(1), trust_option(inspect)
        ('', '')
    """
    modules = [type(part).__module__.partition(".")[0] for part in parts if part is not None]
    modules += [module for part in parts for module in _modules_in(getattr(part, "hparams", {}))]
    own = [module for module in dict.fromkeys(modules) if module not in (*LIBRARIES, "builtins", "__main__")]
    return f" {setting('trusted', ','.join(own), names_of_files)}" if own and option("trusted", names_of_files) else ""


def _modules_in(value: object) -> Iterator[str]:
    """Yield the modules of the names in plain data, those that the user named."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _modules_in(part)
    elif isinstance(value, str) and is_dotted_name(value) and (top := value.partition(".")[0]) in trusted_modules():
        yield top
