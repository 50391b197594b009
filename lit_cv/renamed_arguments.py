"""Renamed constructor arguments: the old name works for one minor version, with a FutureWarning.

To rename an argument of a module or a DataModule, list it in the class attribute `renamed_arguments`, `{old: new}`, and
keep the old name as the last argument of the constructor, `None` by default. Python, the command line and the
configuration and checkpoint of an old run then accept both. Pure Python.
"""

import inspect
import warnings
from collections.abc import MutableMapping
from typing import Any

from lit_cv.errors import OptionError
from lit_cv.signatures import parameters

__all__ = ["renamed_arguments", "use_new_names"]


def renamed_arguments(cls: type) -> dict[str, str]:
    """Return the renamed arguments of a class, old to new name, including those of its bases.

    A subclass may use an old name for an argument of its own, which is then not renamed.

    Example:
        >>> class Images:
        ...     renamed_arguments = {"side": "image_size"}
        ...     def __init__(self, image_size=None, side=None): ...
        >>> class Cubes(Images):
        ...     def __init__(self, side=1): ...
        >>> renamed_arguments(Images), renamed_arguments(Cubes)
        ({'side': 'image_size'}, {})
    """
    renames: dict[str, str] = {}
    if not any("renamed_arguments" in vars(base) for base in cls.__mro__):
        return renames
    names_of_subclasses: set[str] = set()
    for base in cls.__mro__:
        declared = vars(base).get("renamed_arguments", {})
        renames |= {old: new for old, new in declared.items() if old not in names_of_subclasses}
        if "__init__" in vars(base):
            names_of_subclasses |= set(inspect.signature(base).parameters)
    return renames


def use_new_names(cls: type, arguments: MutableMapping[str, Any], where: str = "") -> None:
    """Move the values of renamed arguments to their new names, in place, with a FutureWarning for each.

    Args:
        cls: The class that takes the arguments.
        arguments: Values by the names of the arguments.
        where: Prefix that the warning puts before the names, such as `data.`.

    Raises:
        OptionError: If an argument was given under both names, with different values.

    Example:
        >>> class Images:
        ...     renamed_arguments = {"side": "image_size"}
        ...     def __init__(self, image_size=32, side=None): ...
        >>> arguments = {"side": None, "image_size": 32}
        >>> use_new_names(Images, arguments)
        >>> arguments
        {'image_size': 32}
    """
    for old, new in renamed_arguments(cls).items():
        value = arguments.pop(old, None)
        if value is None:
            continue
        if arguments.get(new) not in (None, value, parameters(cls)[new].default):
            raise OptionError(cls, old, value, f"{where}{new}={arguments[new]!r} was given, too. Use only {where}{new}")
        text = f"{where}{old} is now called {where}{new}; the old name will be removed in the next minor version."
        warnings.warn(text, FutureWarning, stacklevel=2)
        arguments[new] = value
