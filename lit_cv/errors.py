"""Errors about arguments, which name an argument as in Python or as an option of the running command.

Messages of this project are read by people who call its classes from Python and by people who type a command. A class
knows its arguments, but not the options of a command. While a command runs, it installs a speller (`spelled_by`), which
turns an argument and its owner into an option. Pure Python.
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
"""Owner of the options of the command itself, such as `model`."""
TRAINER = "the Trainer"
"""Owner of the Trainer's arguments, for messages of code that has no Trainer."""
FIT = "Trainer.fit"
"""Owner of the arguments of `Trainer.fit`, such as `ckpt_path`."""
DATA = "the DataModule"
"""Owner of the DataModule's arguments, for messages of a module or a callback."""
MODULE = "the module"
"""Owner of the module's arguments, for messages of data or a callback."""


class Part(NamedTuple):
    """An object that a command builds.

    Attributes:
        name: Its name in the command: `model`, `data`, `data.source`, `trainer.callbacks`, `ema`.
        cls: Its class.
        arguments: Its constructor arguments.
    """

    name: str
    cls: type
    arguments: Mapping[str, Any]


class Speller(Protocol):
    """Spells arguments as the options of a command."""

    def spell(self, owner: type | str | None, name: str, path: tuple[str, ...], value: object) -> str | None:
        """Return the option for an argument, `None` if the command has none.

        Args:
            owner: Class of the object that the argument belongs to, a phrase such as `TRAINER`, or the name of a
                function; `None` if unknown.
            name: The argument.
            path: Arguments through which an outer DataModule holds the owner, see `within`.
            value: The argument's value, `...` if unknown.
        """

    def announce(self, parts: Iterable[Part]) -> None:
        """Receive the objects that the command builds."""


_speller: Speller | None = None  # not a ContextVar: messages of threads that read images name options, too
_path: tuple[str, ...] = ()
_names: Mapping[str, str] = {}


@contextmanager
def spelled_by(speller: Speller | None) -> Iterator[None]:
    """Use a speller for the arguments in messages built while the context is open, in all threads.

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
    """Prefix arguments with `name`, the argument through which an outer DataModule holds the inner one.

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
    """Name arguments of an inner object by the arguments of the outer object that passes them on.

    Args:
        **names: The outer name of an argument, by its inner name.

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
    """Pass the objects that a running command builds to its speller, if there is one."""
    if _speller is not None:
        _speller.announce(parts)


def option(name: str, owner: object = None, value: object = ...) -> str | None:
    """Return the option for an argument while a command runs, `None` in Python or if the command has none.

    Args:
        name: The argument.
        owner: The object or class that the argument belongs to, or a phrase such as `TRAINER`; `None` if unknown.
        value: The argument's value, which distinguishes two objects of one class.
    """
    return None if _speller is None else _speller.spell(_owner(owner), _names.get(name, name), _path, value)


def argument(name: str, owner: object = None) -> str:
    """Return the text by which a message names an argument: an option while a command runs, else as in Python.

    Args:
        name: The argument.
        owner: The object or class that the argument belongs to, or a phrase such as `TRAINER`, which is then added to
            the name; `None` if unknown.

    Example:
        >>> argument("root"), argument("devices", TRAINER)
        ('`root`', '`devices` of the Trainer')
    """
    return option(name, owner) or f"`{_dotted(name)}`{_of(owner)}"


def setting(name: str, value: object, owner: object = None) -> str:
    """Return the text by which a message proposes a value for an argument, named as by `argument`.

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
        owner: The object or class that the argument belongs to; `None` if unknown.
        name: The argument.
        value: The refused value.
        allowed: What is allowed, as an instruction.

    Example:
        >>> refusal(None, "weights", "nowhere.pt", "there is no such file")
        "weights='nowhere.pt': there is no such file."
    """
    shown = value if isinstance(value, str | int | float | list | dict | None) else str(value)
    is_question = allowed.endswith("?")
    spelled = option(name, owner, value)
    where = "" if spelled is None else f" ({spelled})"
    return f"{_names.get(name, name)}={shown!r}: {allowed.removesuffix('.')}{where}{'' if is_question else '.'}"


class OptionError(ValueError):
    """A value that an argument does not accept.

    Args:
        owner: The object or class that the argument belongs to; `None` if unknown.
        name: The argument.
        value: The refused value.
        allowed: What is allowed, as a phrase: `must be at least 0`.

    Example:
        >>> raise OptionError(None, "decay", 2.0, "must be a number between 0 and 1, such as 0.999")
        Traceback (most recent call last):
        lit_cv.errors.OptionError: decay=2.0: must be a number between 0 and 1, such as 0.999.
    """

    def __init__(self, owner: object, name: str, value: object, allowed: str) -> None:
        super().__init__(refusal(owner, name, value, allowed))
        self.name, self.value = name, value

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the finished text, since another process may not know the options."""
        return _restored, (type(self), self.args, self.__dict__)


class VoidOptionError(OptionError):
    """A value that has no effect, or is impossible, because of another argument.

    If a recipe sets the value and the user sets the other argument, the value is replaced by the default.

    Args:
        owner: As in `OptionError`.
        name: The argument.
        value: The refused value, `...` if unknown.
        allowed: Why it is void.
        others: Names of other arguments that may be dropped instead.
        text: The complete message, to replace the default one.

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
