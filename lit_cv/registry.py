"""From a name to what it stands for: a short name of this library, or `module.Class` of the user.

A file is data. A name in it (of a checkpoint, a configuration, a comparison) becomes a class only if the class is a
subclass of what is wanted, which is checked before anything is called, and only if its module is of this library or of
Lightning, is loaded already by the program that asks, or was named by the user. Pure Python.
"""

import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar, cast

from lit_cv.errors import OptionError, option, setting
from lit_cv.suggest import nearest

__all__ = [
    "LIBRARIES",
    "Table",
    "UntrustedClassError",
    "is_own_name",
    "is_trusted",
    "loaded_class",
    "names_of_files",
    "no_subclass",
    "resolve",
    "resolve_class",
    "trust_option",
    "trusted_modules",
    "unknown",
    "untrusted",
]

T = TypeVar("T")
Entry = TypeVar("Entry")

LIBRARIES = ("lit_cv", "datamodules", "lightning", "pytorch_lightning")
"""Packages whose classes a file may name."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_FEW = 12  # names that a message lists
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


class Table(Mapping[str, Entry], Generic[Entry]):
    """What an argument takes: the entries of this library by their short names, and the user's own as `file.Name`.

    The entries are found, not listed: one more is one more file.

    Args:
        kind: What an entry is, for messages, such as `operation`.
        base: Class that the user's own must derive from.
        entries: Package whose files add the entries, which are imported when one is first asked for; or a function that
            returns them.
        misfit: Returns what the user's own is that does not fit, such as `no subclass of Operation`, and `None` for
            what does; by default anything but a subclass of `base` that can be built. It may call nothing of it.

    Example:
        >>> table: Table[type[Exception]] = Table("fault", Exception, "lit_cv.losses")
        >>> @table.add("slip")
        ... class Slip(Exception):
        ...     pass
        >>> list(table), table["slip"].__name__
        (['slip'], 'Slip')
    """

    def __init__(
        self,
        kind: str,
        base: type,
        entries: str | Callable[[], Mapping[str, Entry]],
        misfit: Callable[[object], str | None] | None = None,
    ) -> None:
        self.kind = kind
        self.base = base
        self.misfit = misfit or (lambda found: no_subclass(found, base) or _abstract(found))
        self._source = entries
        self._entries: dict[str, Entry] = {}
        self._complete = False

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds a class or function under a short name.

        Raises:
            ValueError: If there is another one of that name.
        """

        def enter(entry: T) -> T:
            first: object = self._entries.setdefault(name, cast(Entry, entry))
            if first is not entry:
                raise ValueError(f"there are two {self.kind}s named {name!r}.")
            return entry

        return enter

    def _found(self) -> Mapping[str, Entry]:
        if not isinstance(self._source, str):
            return self._source()
        if not self._complete:
            package = import_module(self._source)
            for module in sorted(module.name for module in iter_modules(package.__path__)):
                import_module(f"{self._source}.{module}")
            self._complete = True
        return self._entries

    def __getitem__(self, name: str) -> Entry:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())


def resolve(name: object, table: Table[Entry], source: str) -> Entry:
    """Return what a name stands for: an entry of a table, or one of the user's own.

    Args:
        name: A short name, or `module.Name`, whose module is imported if it may be, see `is_trusted`.
        table: The entries, and what the user's own must be.
        source: What names it, for the message.

    Raises:
        UntrustedClassError: If its module may not be imported.
        ValueError: If there is no such entry, or the user's own is not what is wanted.

    Example:
        >>> from lit_cv.tasks import TASKS
        >>> resolve("regression", TASKS, "an example").__name__
        'RegressionTask'
        >>> resolve("lit_cv.tasks.RegressionTask", TASKS, "an example").__name__
        'RegressionTask'
    """
    if isinstance(name, str) and _PATH.fullmatch(name):
        return cast(Entry, _named(name, source, table.base, table.misfit))
    if isinstance(name, str) and name in table:
        return table[name]
    raise unknown(name, table.kind, table, source)


def unknown(name: object, kind: str, known: Iterable[str], source: str) -> OptionError:
    """Return the error about a short name that stands for nothing, with the nearest ones that do.

    Args:
        name: The name.
        kind: What it was to name.
        known: The names that there are.
        source: The argument that names it.
    """
    names = list(known)
    few = f" There are {', '.join(names)}, and your own as file.Name." if len(names) <= _FEW else ""
    return OptionError(None, source, str(name)[:80], f"there is no such {kind}{nearest(str(name), names)}{few}")


def is_own_name(name: str) -> bool:
    """Return whether a name is that of something in a module, `module.Name`, and not a short name."""
    return _PATH.fullmatch(name) is not None


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
        raise ValueError(f"{source} names {_short(path)} as a class: a name such as module.{base.__name__} is one.")
    return cast(type[T], _named(path, source, base, lambda found: no_subclass(found, base)))


def _named(path: str, source: str, base: type, misfit: Callable[[object], str | None]) -> object:
    """Return what a name stands for in its module, if that may be imported and has what is wanted."""
    if not is_trusted(path):
        raise untrusted(path, source, base.__name__)
    module, _, name = path.rpartition(".")
    found: object = loaded_class(path)
    if found is not None and (problem := misfit(found)):
        raise ValueError(f"{source} names {path}, which is {problem}.")
    if not _is_own(base.__module__) and _only_loaded(path) and _is_installed(path.partition(".")[0]):
        raise _no_consent(path, source)
    if found is not None:
        return found
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{source} names {path}, but there is no {module} here: run from its folder, or set PYTHONPATH."
        ) from None
    found = getattr(home, name, None)
    if problem := misfit(found):
        fitting = [each for each, value in vars(home).items() if misfit(value) is None and value is not base]
        lacks = f": {module} has no {name}{nearest(name, fitting)}" if found is None else "."
        raise ValueError(f"{source} names {path}, which is {problem}{lacks}")
    return found


def no_subclass(found: object, base: type) -> str | None:
    """Return `no subclass of BASE` for anything but a subclass, which gives `None`."""
    return None if isinstance(found, type) and issubclass(found, base) else f"no subclass of {base.__name__}"


def _abstract(found: object) -> str | None:
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    return f"abstract: it must define {' and '.join(missing)}" if missing else None


def _short(name: object) -> str:
    return repr(str(name)[:80])


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


def untrusted(path: str, source: str, kind: str = "what is wanted here") -> UntrustedClassError:
    """Return the error about a class whose module may not be imported.

    Args:
        path: The name of the class.
        source: What names it.
        kind: What the class must derive from.
    """
    if _is_known(path):
        return UntrustedClassError(f"{source} names {path}, which is no subclass of {kind}.")
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
    elif isinstance(value, str) and is_own_name(value) and (top := value.partition(".")[0]) in trusted_modules():
        yield top
