"""Resolving names: short names of this library, or `file.Name` for the user's code, see `lit_cv.trust`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from traceback import extract_tb
from typing import Generic, TypeVar, cast

from lit_cv.errors import OptionError, argument
from lit_cv.suggest import nearest
from lit_cv.trust import is_dotted_name, loaded_class, require_trusted

__all__ = ["Registry", "resolve", "resolve_class", "subclass_problem", "unknown_name_error"]

T = TypeVar("T")
Entry = TypeVar("Entry")

_MAX_LISTED = 12  # names in a message


class Registry(Mapping[str, Entry], Generic[Entry]):
    """The choices of an argument: entries of this library by short name, and the user's code as `file.Name`.

    Entries register themselves, so that adding one means adding one file.

    Args:
        kind: What an entry is, for messages, such as `operation`.
        base: Class that a custom entry must derive from.
        entries: Package whose files add the entries and are imported on first use, or a function that returns them.
        misfit: Function that returns why a custom object is not allowed, such as `not a subclass of Operation`, or
            `None` if it is. It must not call the object. The default allows concrete subclasses of `base`.

    Example:
        >>> table: Registry[type[Exception]] = Registry("fault", Exception, "lit_cv.losses")
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
        self.misfit = misfit or (lambda found: subclass_problem(found, base) or _abstract(found))
        self._source = entries
        self._entries: dict[str, Entry] = {}
        self._complete = False

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds a class or function under a short name.

        Raises:
            ValueError: If the name is taken.
        """

        def enter(entry: T) -> T:
            first: object = self._entries.setdefault(name, cast(Entry, entry))
            if first is not entry:
                raise ValueError(f"two {self.kind}s are named {name!r}.")
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


def resolve(name: object, table: Registry[Entry], source: str) -> Entry:
    """Return the object that a name stands for: an entry of a registry, or a custom one.

    Args:
        name: A short name, or `module.Name`, whose module is imported if allowed, see `is_trusted`.
        table: The registry.
        source: The argument that holds the name, for messages.

    Raises:
        UntrustedClassError: If its module may not be imported.
        ValueError: If the registry has no such entry, or refuses the custom object.

    Example:
        >>> from lit_cv.tasks import TASKS
        >>> resolve("regression", TASKS, "an example").__name__
        'RegressionTask'
        >>> resolve("lit_cv.tasks.RegressionTask", TASKS, "an example").__name__
        'RegressionTask'
    """
    if isinstance(name, str) and is_dotted_name(name):
        return cast(Entry, _named(name, argument(source), table.base, table.misfit))
    if isinstance(name, str) and name in table:
        return table[name]
    raise unknown_name_error(name, table.kind, table, source)


def unknown_name_error(name: object, kind: str, known: Iterable[str], source: str) -> OptionError:
    """Return the error about an unknown short name, with the nearest known ones.

    Args:
        name: The name.
        kind: What it should name, such as `operation`.
        known: The known names.
        source: The argument that holds the name.
    """
    names = list(known)
    choices = f" Choose one of {', '.join(names)}, or use file.Name for your code." if len(names) <= _MAX_LISTED else ""
    return OptionError(None, source, str(name)[:80], f"there is no such {kind}{nearest(str(name), names)}{choices}")


def resolve_class(path: object, base: type[T], source: str) -> type[T]:
    """Return the class of a dotted name; import its module if allowed.

    Args:
        path: The name, `module.Class`.
        base: What the class must derive from.
        source: Where the name was found, for messages.

    Raises:
        UntrustedClassError: If its module may not be imported.
        ValueError: If it is not the name of a class, no such class exists, or it does not derive from `base`.

    Example:
        >>> from lit_cv.tasks import BaseTask
        >>> resolve_class("lit_cv.tasks.ClassificationTask", BaseTask, "an example").__name__
        'ClassificationTask'
    """
    if not isinstance(path, str) or not is_dotted_name(path):
        raise ValueError(f"{source} names {_short(path)} as a class: use a name such as module.{base.__name__}.")
    return cast(type[T], _named(path, source, base, lambda found: subclass_problem(found, base)))


def _named(path: str, source: str, base: type, misfit: Callable[[object], str | None]) -> object:
    """Return the object of a dotted name, if its module may be imported and `misfit` allows the object."""
    module, _, name = path.rpartition(".")
    found: object = loaded_class(path)
    if found is not None and (problem := misfit(found)):
        raise ValueError(f"{source} names {path}, which is {problem}.")
    require_trusted(path, base, source)
    if found is not None:
        return found
    try:
        home = import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{source} names {path}, but module {module} was not found: run from its folder, or set PYTHONPATH."
            ) from None
        raise ValueError(f"{source} names {path}, but {module} cannot be imported: {_place(error)}.") from error
    found = getattr(home, name, None)
    if problem := misfit(found):
        fitting = [each for each, value in vars(home).items() if misfit(value) is None and value is not base]
        lacks = f": {module} has no {name}{nearest(name, fitting)}" if found is None else "."
        raise ValueError(f"{source} names {path}, which is {problem}{lacks}")
    return found


def subclass_problem(found: object, base: type) -> str | None:
    """Return `None` for a subclass of `base`, else the text `not a subclass of BASE`."""
    return None if isinstance(found, type) and issubclass(found, base) else f"not a subclass of {base.__name__}"


def _abstract(found: object) -> str | None:
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    return f"abstract: it must define {' and '.join(missing)}" if missing else None


def _short(name: object) -> str:
    return repr(str(name)[:80])


def _place(error: Exception) -> str:
    """Return file, line and reason of a failed import."""
    frame = [each for each in extract_tb(error.__traceback__) if "importlib" not in each.filename][-1]
    file, line, reason = frame.filename, frame.lineno, str(error)
    if isinstance(error, SyntaxError):
        file, line, reason = error.filename or file, error.lineno, error.msg
    return f"{Path(file).name}, line {line}: {type(error).__name__}: {reason}"
