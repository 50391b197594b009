"""Splits of classes, so that validation and test use classes that are not in training."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lit_cv.errors import OptionError, argument
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["recorded_classes", "recorded_names", "split_classes"]

Held = int | list[int | str] | None


def split_classes(
    names: Sequence[str],
    by: Literal["class", "group"],
    val: Held,
    test: Held,
    seed: int | None,
    trains: bool = True,
) -> dict[str, NDArray[np.int64]]:
    """Divide classes or groups of classes among training, validation and test.

    Args:
        names: Class names; `GROUP/CLASS` for a class in a group.
        by: Whether single classes or entire groups are divided.
        val: Classes (groups) for validation: names or a number; `None` is a fifth of them, at least one.
        test: Classes (groups) for testing, likewise.
        seed: Seed of the choice if numbers are given; `None` uses the last classes in sorted order for testing, and
            those before them for validation.
        trains: Whether some must remain for training.

    Returns:
        Class numbers for `train`, `val` and `test`, ascending.

    Raises:
        ValueError: If a name is unknown or in both, or none remain for training.

    Example:
        >>> names = ["Greek/alpha", "Greek/beta", "Latin/a", "Latin/b", "Cyrillic/a", "Cyrillic/b"]
        >>> {split: classes.tolist() for split, classes in split_classes(names, "group", 1, 1, None).items()}
        {'train': [4, 5], 'val': [0, 1], 'test': [2, 3]}
    """
    unit_of = [name.partition("/")[0] if by == "group" else name for name in names]
    units = sorted(set(unit_of))
    free = [unit for unit in units if unit not in _named(val) + _named(test)]
    if seed is not None:
        order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, 3]))).permutation(len(free))
        free = [free[position] for position in order]
    chosen: dict[str, list[str]] = {}
    for split, held in (("test", test), ("val", val)):
        if isinstance(held, list):
            chosen[split] = [_existing(name, units, split, by) for name in _named(held)]
            continue
        count = max(1, len(units) // 5) if held is None else held
        if not trains:
            count = min(count, len(free))
        if count < 0 or count > len(free) or (trains and count == len(free)):
            raise OptionError(
                None,
                f"{split}_classes",
                held,
                f"{count} of {len(free)} {_plural(by)} would leave none for training; give fewer",
            )
        chosen[split] = free[len(free) - count :]
        free = free[: len(free) - count]
    options = f"{argument('val_classes')}, {argument('test_classes')}"
    if both := sorted(set(chosen["val"]) & set(chosen["test"])):
        shown = printable(", ".join(both), lines=False)
        raise ValueError(f"{shown}: used for both validation and test. Choose one ({options}).")
    chosen["train"] = free
    if not free and trains:
        raise ValueError(f"no {_plural(by)} remain for training: hold out fewer ({options}).")
    parts = {split: set(chosen[split]) for split in ("train", "val", "test")}
    return {
        split: np.array([number for number, unit in enumerate(unit_of) if unit in part], dtype=np.int64)
        for split, part in parts.items()
    }


def recorded_classes(
    names: Sequence[str], by: Literal["class", "group"], recorded: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.int64]]:
    """Return the classes of each split as in a checkpoint; new classes go to the test split.

    Args:
        names: Class names.
        by: Whether classes or groups were divided; new classes of a known group go to its split.
        recorded: Class names of `train`, `val` and `test`.

    Example:
        >>> recorded = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
        >>> {split: part.tolist() for split, part in recorded_classes(["a", "aa", "c", "d"], "class", recorded).items()}
        {'train': [0], 'val': [2], 'test': [1, 3]}
    """
    split_of = {name: split for split in ("test", "val", "train") for name in recorded.get(split, ())}
    if by == "group":
        split_of = {name.partition("/")[0]: split for name, split in split_of.items()} | split_of
    splits = [split_of.get(name, split_of.get(name.partition("/")[0], "test")) for name in names]
    return {
        split: np.array([number for number, part in enumerate(splits) if part == split], dtype=np.int64)
        for split in ("train", "val", "test")
    }


def recorded_names(state: object) -> dict[str, list[str]]:
    """Return the class names of each split in a checkpoint; empty if its content is invalid."""
    if not isinstance(state, Mapping) or not all(isinstance(names, list) for names in state.values()):
        return {}
    return {str(split): [str(name) for name in names] for split, names in state.items()}


def _named(held: Held) -> list[str]:
    return [str(name) for name in held] if isinstance(held, list) else []


def _existing(name: str, units: Sequence[str], split: str, by: str) -> str:
    if name not in units:
        shown = printable(f"{', '.join(units[:20])}{', ...' if len(units) > 20 else ''}", lines=False)
        raise ValueError(
            f"unknown {by} {name!r} ({argument(f'{split}_classes')}){nearest(name, units)} Known: {shown}."
        )
    return name


def _plural(by: str) -> str:
    return "classes" if by == "class" else "groups"
