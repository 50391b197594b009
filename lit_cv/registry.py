"""From the name of a class to the class: names of files reach no code but this library's and what the user named.

A file is data. A name in it (of a checkpoint, a configuration, a comparison) becomes a class only if the class is a
subclass of what is wanted, which is checked before anything is called, and only if its module is of this library or of
Lightning, is loaded already by the program that asks, or was named by the user. Pure Python.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, TypeVar

__all__ = [
    "LIBRARIES",
    "UntrustedClassError",
    "is_trusted",
    "loaded_class",
    "names_of_files",
    "resolve_class",
    "trust_option",
    "trusted_modules",
    "untrusted",
]

T = TypeVar("T")

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


def resolve_class(path: object, base: type[T], source: str) -> type[T]:
    """Return the class of a name, which is imported if its module may be.

    Args:
        path: The name, `module.Class`.
        base: What the class must derive from.
        source: What names it, for the message.

    Raises:
        UntrustedClassError: If its module may not be imported.
        ValueError: If it is no name of a class, there is no such class, or it is of another kind.

    Example:
        >>> from lit_cv.tasks import BaseTask
        >>> resolve_class("lit_cv.tasks.ClassificationTask", BaseTask, "an example").__name__
        'ClassificationTask'
    """
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ValueError(f"{source} names {str(path)[:80]!r} as a class: a name such as module.{base.__name__} is one.")
    if not is_trusted(path):
        raise untrusted(path, source, base.__name__)
    module, _, name = path.rpartition(".")
    found: Any = loaded_class(path)
    if found is None:
        try:
            found = getattr(import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"{source} names {path}, but there is no {module} here: run from its folder, or set PYTHONPATH."
            ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{source} names {path}, which is no subclass of {base.__name__}.")
    return found


def _is_known(path: str) -> bool:
    """Tell whether the module of a name is Python's own, or loaded: then the name itself is not what is wanted."""
    return path.partition(".")[0] in sys.stdlib_module_names or path.rpartition(".")[0] in sys.modules


def untrusted(path: str, source: str, kind: str = "what is wanted here") -> UntrustedClassError:
    """Return the error about a class whose module may not be imported.

    Args:
        path: The name of the class.
        source: What names it.
        kind: What the class must derive from.
    """
    if _is_known(path):
        return UntrustedClassError(f"{source} names {path}, which is no subclass of {kind}.")
    module = path.partition(".")[0]
    return UntrustedClassError(
        f"{source} names {path}, code that is not of lit_cv and could do anything: if you trust it, name its module "
        f"(--trust {module})."
    )


def trust_option(*parts: object) -> str:
    """Return the option that lets a later command load these objects from files, "" if all are of a library.

    Example:
        >>> trust_option(1), trust_option(inspect)
        ('', '')
    """
    modules = dict.fromkeys(type(part).__module__.partition(".")[0] for part in parts if part is not None)
    own = [module for module in modules if module not in (*LIBRARIES, "builtins", "__main__")]
    return f" --trust {','.join(own)}" if own else ""
