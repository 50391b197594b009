"""Choice of some classes of a dataset."""

import re
from collections.abc import Sequence

import torch

from datamodules.dataset import ImageDataset
from lit_cv.annotations.reading import composed
from lit_cv.errors import OptionError, argument
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["choose_classes", "class_numbers", "numbers_first", "written_number"]


def choose_classes(dataset: ImageDataset, classes: Sequence[int | str]) -> ImageDataset:
    """Return the images of some classes with labels renumbered in the given order; unlabeled images are kept.

    Args:
        dataset: Images with one label each. It is returned unchanged if it has no class names.
        classes: The classes, by number or by name.

    Raises:
        ValueError: If a class does not exist or is repeated, or the images have several labels.

    Example:
        >>> from datamodules import InMemoryDataset
        >>> dataset = InMemoryDataset(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 1, 2, 1], ["a", "b", "c"])
        >>> chosen = choose_classes(dataset, ["c", 1])
        >>> chosen.labels.tolist(), chosen.class_names
        ([1, 0, 1], ['c', 'b'])
    """
    names = dataset.class_names
    if not names:
        return dataset
    if dataset.labels.ndim != 1:
        raise ValueError(f"classes needs images with one label, but these have several: remove {argument('classes')}.")
    numbers = class_numbers(classes, names)
    renumbered = torch.full((len(names) + 1,), -2)
    renumbered[numbers] = torch.arange(len(numbers))
    renumbered[-1] = -1  # for unlabeled images
    labels = renumbered[dataset.labels]
    kept = torch.nonzero(labels > -2).flatten()
    chosen = dataset.subset(kept, labels[kept])
    chosen.class_names = [names[number] for number in numbers]
    return chosen


def class_numbers(classes: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """Return the numbers of classes given by number or by name; names that are numbers take precedence.

    Raises:
        ValueError: If a class does not exist or is repeated, or the list is empty.
    """
    numbers = [_number(name, names) for name in classes]
    if not numbers or len(set(numbers)) < len(numbers):
        raise OptionError(None, "classes", list(classes), "must name at least one class, and each class once")
    return numbers


def _number(name: int | str, names: Sequence[str]) -> int:
    """Return the number of a class, trying its name first, as YAML reads the name "2" as a number."""
    if (text := composed(str(name))) in names:
        return list(names).index(text)
    numeric = [position for position, text in enumerate(names) if text.isdecimal()]
    same = [position for position in numeric if isinstance(name, int) and int(names[position]) == name]  # 01 and 1
    if len(same) == 1:
        return same[0]
    if isinstance(name, int) and 0 <= name < len(names) and not numeric:
        return name
    hint = nearest(name, names) if isinstance(name, str) else "."
    shown = printable(", ".join(names[:20]), lines=False) + (", ..." if len(names) > 20 else "")
    numbering = "named by numbers" if numeric else "counted from 0"
    raise ValueError(
        f"unknown class {name!r} ({argument('classes')}){hint} The {len(names)} classes, {numbering}: {shown}."
    )


def numbers_first(name: str) -> tuple[bool, float, str]:
    """Return a sort key for class names: numbers by value, before all others.

    Example:
        >>> sorted(["cat", "10", "9"], key=numbers_first)
        ['9', '10', 'cat']
    """
    value = int(name) if name.isdecimal() else written_number(name)
    return (value is None, value or 0.0, name)


def written_number(name: str) -> float | None:
    """Return the value of a name that is a finite number as written in tables, otherwise `None`.

    Example:
        >>> written_number("1.0"), written_number("one")
        (1.0, None)
    """
    if not re.fullmatch(r"[-+]?\d{1,15}(\.\d*)?", name, re.ASCII):
        return None
    return float(name)
