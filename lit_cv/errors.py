"""The error about an argument, and how a message names an argument: in Python, or as a command line spells it.

Messages of this project are read by people who call its classes from Python and by people who type a command. A class
knows its own arguments, but not how a command spells them. While a command runs, it installs a speller
(`spelled_by`), which turns an argument and its owner into an option. Pure Python.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import isfunction
from typing import Any, NamedTuple, Protocol

__all__ = [
    "COMMAND",
    "DATA",
    "FIT",
    "MODULE",
    "TRAINER",
    "OptionError",
    "Part",
    "Speller",
    "VoidOptionError",
    "announce_parts",
    "argument",
    "option",
    "refusal",
    "renamed",
    "setting",
    "spelled_by",
    "within",
]

COMMAND = "the command"
"""Owner of the options that a command has by itself, such as `model`."""
TRAINER = "the Trainer"
"""Owner of the Trainer's arguments, for messages of files that do not hold a Trainer."""
FIT = "Trainer.fit"
"""Owner of the arguments of `Trainer.fit`, such as `ckpt_path`."""
DATA = "the DataModule"
"""Owner of the arguments of the data, for messages of a module or a callback."""
MODULE = "the module"
"""Owner of the arguments of the module, for messages of data or a callback."""


class Part(NamedTuple):
    """An object that a command builds.

    Attributes:
        name: What the command calls it: `model`, `data`, `data.source`, `trainer.callbacks`, `ema`.
        cls: Its class.
        arguments: The arguments that it gets.
    """

    name: str
    cls: type
    arguments: Mapping[str, Any]


class Speller(Protocol):
    """Spells arguments as the options of a command."""

    def spell(self, owner: type | str | None, name: str, path: tuple[str, ...], value: object) -> str | None:
        """Return the option for an argument, `None` if the command has none.

        Args:
            owner: Class of the object whose argument it is; a phrase such as `TRAINER`, or the name of a function;
                `None` if unknown.
            name: The argument.
            path: Arguments through which an outer DataModule holds the owner, see `within`.
            value: The value that was given, `...` if that is unknown.
        """

    def announce(self, parts: Iterable[Part]) -> None:
        """Receive the objects that the command builds."""


_speller: Speller | None = None  # no ContextVar: threads that read images name options, too
_path: tuple[str, ...] = ()
_names: Mapping[str, str] = {}


@contextmanager
def spelled_by(speller: Speller | None) -> Iterator[None]:
    """Let a speller name the arguments in messages that are built within, in all threads.

    Args:
        speller: The speller; `None` names arguments as in Python.
    """
    global _speller
    before, _speller = _speller, speller
    try:
        yield
    finally:
        _speller = before


@contextmanager
def within(name: str) -> Iterator[None]:
    """Name arguments of a DataModule that another one takes as its argument `name`.

    Example:
        >>> with within("source"):
        ...     argument("root")
        '`source.root`'
    """
    global _path
    before, _path = _path, (*_path, name)
    try:
        yield
    finally:
        _path = before


@contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Name arguments of an object by those of the object that hands them on.

    Args:
        **names: What an argument is called outside, by its name inside.

    Example:
        >>> with renamed(root="support_root"):
        ...     argument("root")
        '`support_root`'
    """
    global _names
    before, _names = _names, {**_names, **names}
    try:
        yield
    finally:
        _names = before


def announce_parts(parts: Iterable[Part]) -> None:
    """Tell the speller of a running command, if there is one, which objects it builds."""
    if _speller is not None:
        _speller.announce(parts)


def option(name: str, owner: object = None, value: object = ...) -> str | None:
    """Return the option for an argument while a command runs, `None` in Python or if the command has none.

    Args:
        name: The argument.
        owner: The object or the class whose argument it is, or a phrase such as `TRAINER`; `None` if unknown.
        value: The value that was given, which tells apart two objects of a class.
    """
    return None if _speller is None else _speller.spell(_owner(owner), _names.get(name, name), _path, value)


def argument(name: str, owner: object = None) -> str:
    """Return how a message names an argument: as an option while a command runs, else as in Python.

    Args:
        name: The argument.
        owner: The object or the class whose argument it is, or a phrase such as `TRAINER`, which the name then
            carries; `None` if unknown.

    Example:
        >>> argument("root"), argument("devices", TRAINER)
        ('`root`', '`devices` of the Trainer')
    """
    return option(name, owner) or f"`{_dotted(name)}`{_of(owner)}"


def setting(name: str, value: object, owner: object = None) -> str:
    """Return how a message proposes a value for an argument, named as `argument` does.

    Example:
        >>> setting("download", True), setting("ckpt_path", "last", FIT)
        ('`download=True`', "`ckpt_path='last'` of Trainer.fit")
    """
    if spelled := option(name, owner):
        return f"{spelled} {value if isinstance(value, str) else json.dumps(value)}"
    return f"`{_dotted(name)}={value!r}`{_of(owner)}"


def refusal(owner: object, name: str, value: object, allowed: str) -> str:
    """Return the text of an `OptionError`, for an error of another type about an argument.

    Args:
        owner: The object or the class whose argument it is; `None` where a function does not know.
        name: The argument.
        value: What was given.
        allowed: What is allowed, as an instruction.

    Example:
        >>> refusal(None, "weights", "nowhere.pt", "there is no such file")
        "weights='nowhere.pt': there is no such file."
    """
    given = value if isinstance(value, str | int | float | list | dict | None) else str(value)
    asks = allowed.endswith("?")
    spelled = option(name, owner, value)
    where = "" if spelled is None else f" ({spelled})"
    return f"{name}={given!r}: {allowed.removesuffix('.')}{where}{'' if asks else '.'}"


class OptionError(ValueError):
    """A value that an argument does not take.

    Args:
        owner: The object or the class whose argument it is; `None` where a function does not know.
        name: The argument.
        value: What was given.
        allowed: What is allowed, as an instruction: `give a number from 0 on`.

    Example:
        >>> raise OptionError(None, "decay", 2.0, "give a number between 0 and 1, such as 0.999")
        Traceback (most recent call last):
        lit_cv.errors.OptionError: decay=2.0: give a number between 0 and 1, such as 0.999.
    """

    def __init__(self, owner: object, name: str, value: object, allowed: str) -> None:
        super().__init__(refusal(owner, name, value, allowed))
        self.name, self.value = name, value

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickles the finished text: another process may not know the options."""
        return _restored, (type(self), self.args, self.__dict__)


class VoidOptionError(OptionError):
    """A value that is without effect, or impossible, because of another argument.

    Where a recipe gives the value and the user the other argument, the value is dropped in favor of the default.

    Args:
        owner: As in `OptionError`.
        name: The argument.
        value: What was given, `...` where the raiser does not know.
        allowed: Why it is void.
        others: Names of other arguments that may be dropped in its place.
        text: The whole message, where it is to be another.

    Example:
        >>> raise VoidOptionError(None, "backbone_lr", 0.1, "it has no effect where the backbone is frozen")
        Traceback (most recent call last):
        lit_cv.errors.VoidOptionError: backbone_lr=0.1: it has no effect where the backbone is frozen.
    """

    def __init__(
        self,
        owner: object,
        name: str,
        value: object,
        allowed: str,
        others: tuple[str, ...] = (),
        text: str | None = None,
    ) -> None:
        super().__init__(owner, name, value, allowed)
        self.reason, self.others = allowed, others
        if text is not None:
            self.args = (text,)


def _restored(cls: type[OptionError], args: tuple[Any, ...], state: dict[str, Any]) -> OptionError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _owner(owner: object) -> type | str | None:
    if isfunction(owner):
        return str(owner.__name__)
    if owner is None or isinstance(owner, str):
        return owner
    cls = owner if isinstance(owner, type) else type(owner)
    return TRAINER if any(base.__name__ == "Trainer" for base in cls.__mro__) else cls


def _of(owner: object) -> str:
    named = _owner(owner)
    return f" of {named}" if isinstance(named, str) else ""


def _dotted(name: str) -> str:
    return ".".join((*_path, _names.get(name, name)))
