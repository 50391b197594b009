"""Matching of a model's classes and a data set's classes by name. Pure Python."""

import unicodedata
from collections.abc import Sequence

from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["match_classes", "shared_classes"]

_SHOWN = 8  # names that a message lists


def match_classes(trained: Sequence[str], data: Sequence[str]) -> list[int]:
    """Return, for each class of the data, its index among the classes that a model was trained on.

    Names are compared after Unicode normalization, so that the encoding of accents does not matter.

    Args:
        trained: Names of the model's classes, in the order of its outputs.
        data: Names of the classes of the data, in the order of their labels.

    Raises:
        ValueError: If the two sets of names differ; the message lists missing and unknown names.

    Example:
        >>> match_classes(["cat", "dog", "owl"], ["owl", "cat", "dog"])
        [2, 0, 1]
    """
    ours, theirs = _normalized(trained), _normalized(data)
    if ours == theirs:
        return list(range(len(ours)))
    number = {name: position for position, name in enumerate(ours)}
    if sorted(ours) == sorted(theirs) and len(number) == len(ours):
        return [number[name] for name in theirs]
    raise ValueError(_difference(ours, theirs))


def shared_classes(trained: Sequence[str], data: Sequence[str]) -> list[int | None]:
    """Return, for each class of the data, its index among a model's classes, `None` if the model lacks it.

    Args:
        trained: Names of the model's outputs, empty for outputs that are not a class.
        data: Names of the classes of the data, in the order of their labels.

    Example:
        >>> shared_classes(["", "person", "car"], ["car", "tree"])
        [2, None]
    """
    number = {name: position for position, name in enumerate(_normalized(trained)) if name}
    return [number.get(name) for name in _normalized(data)]


def _normalized(names: Sequence[str]) -> list[str]:
    return [unicodedata.normalize("NFC", str(name)) for name in names]


def _difference(trained: Sequence[str], data: Sequence[str]) -> str:
    missing = [name for name in trained if name not in set(data)]
    new = [name for name in data if name not in set(trained)]
    parts = [
        f"{_listed(names)} {what}" for names, what in ((missing, "missing"), (new, "unknown to the model")) if names
    ]
    text = f"{' and '.join(parts) or 'several classes have the same name'}"
    hint = nearest(new[0], missing) if len(new) == 1 and missing else "."
    return (
        f"the model has {len(trained)} classes ({_names(trained)}), the data have {len(data)} "
        f"({_names(data)}): {text}{hint}"
    )


def _listed(names: Sequence[str]) -> str:
    return f"{_names(names)} {'is' if len(names) == 1 else 'are'}"


def _names(names: Sequence[str]) -> str:
    return printable(", ".join(names[:_SHOWN]), lines=False) + (", ..." if len(names) > _SHOWN else "")
