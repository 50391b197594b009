"""Which class of one set is which class of another, by their names. Pure Python."""

import unicodedata
from collections.abc import Sequence

from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["match_classes", "shared_classes"]

_SHOWN = 8  # names that a message lists


def match_classes(trained: Sequence[str], data: Sequence[str]) -> list[int]:
    """Return the number that each class of the data has among the classes that a model was trained on.

    Names that look the same are the same, however their accents are encoded.

    Args:
        trained: Names of the model's classes, in the order of its outputs.
        data: Names of the classes of the data, in the order of their labels.

    Raises:
        ValueError: If the names are not the same in some order; the message lists what is missing and what is new.

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
    """Return the number that each class of the data has among those of a model, `None` for classes that it lacks.

    Args:
        trained: Names of the model's outputs, empty for those that stand for no class.
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
    parts = [f"{_listed(names)} {what}" for names, what in ((missing, "missing"), (new, "unknown to it")) if names]
    text = f"{' and '.join(parts) or 'several classes have one name'}"
    hint = nearest(new[0], missing) if len(new) == 1 and missing else "."
    return (
        f"the model tells apart {len(trained)} classes ({_names(trained)}), the data have {len(data)} "
        f"({_names(data)}): {text}{hint}"
    )


def _listed(names: Sequence[str]) -> str:
    return f"{_names(names)} {'is' if len(names) == 1 else 'are'}"


def _names(names: Sequence[str]) -> str:
    return printable(", ".join(names[:_SHOWN]), lines=False) + (", ..." if len(names) > _SHOWN else "")
