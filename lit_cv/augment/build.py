"""Operations from a declarative list, such as in a YAML file."""

from collections.abc import Mapping, Sequence
from typing import Any

from lit_cv.augment.chain import Chain
from lit_cv.augment.operation import OPERATIONS, Operation
from lit_cv.errors import spelled_by
from lit_cv.registry import resolve
from lit_cv.signatures import build

__all__ = ["build_operations"]


def build_operations(operations: Sequence[str | Mapping[str, Any]]) -> Chain:
    """Build a chain from a list of operations.

    Args:
        operations: Names, or dicts of a `name` and the operation's arguments. A name is one of `OPERATIONS`, or
            `file.Class` for a user-defined subclass of `Operation`.

    Raises:
        TypeError: If an entry is neither.
        ValueError: If a name or an argument does not exist, or a value is out of range.

    Example:
        >>> build_operations(["horizontal_flip", {"name": "random_crop", "padding": 2}]).operations
        [HorizontalFlip(p=0.5), RandomCrop(padding=2, size=None, fill='zero')]
    """
    if isinstance(operations, str | Mapping) or not isinstance(operations, Sequence):
        raise TypeError(f"operations={operations!r}: give a list of names, or of dicts with a name.")
    return Chain([_build(entry) for entry in operations])


def _build(entry: str | Mapping[str, Any]) -> Operation:
    options = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise TypeError(f"operation {entry!r}: give a name, or a dict such as {{name: random_crop, padding: 4}}.")
    name = options["name"]
    kind = resolve(name, OPERATIONS, "operations")
    arguments = {key: value for key, value in options.items() if key != "name"}
    with spelled_by(None):  # an operation's argument is not an option, even if an option has the same name
        return build(kind, f"operation {name!r}", arguments)
