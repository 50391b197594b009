"""Folds for cross-validation, by scikit-learn's splitters, with what they need taken from a DataModule's images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_cv.csv_tables import read_csv
from lit_cv.errors import OptionError, argument, refusal, setting

__all__ = ["Fold", "groups_by_pattern", "groups_from_table", "make_folds"]

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """The images that a fold holds out.

    Attributes:
        repeat: Which division into folds, from 1.
        number: Which fold of it, from 1.
        held_out: Positions in the pool, ascending.
    """

    repeat: int
    number: int
    held_out: Positions


def make_folds(
    labels: NDArray[Any],
    folds: int = 5,
    repeats: int = 1,
    stratified: bool | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Fold]:
    """Divide labelled images into folds of about the same size, so that each is held out once in every repeat.

    Args:
        labels: (N,) integers, -1 where unlabelled: such images are never held out; or (N, K) of 0 and 1.
        folds: Number of folds, at least 2.
        repeats: Number of divisions, each by another seed.
        stratified: Whether each fold holds the classes in the proportion of all; `None` does so where an image has
            one label.
        groups: Group of each image: images of one group are never on both sides, patients or scenes for example.
        seed: Seed of the first division.

    Raises:
        ValueError: If there are too few images, groups or images of a class, or several labels to stratify by.

    Example:
        >>> folds = make_folds(np.array([0, 0, 1, 1]), folds=2)
        >>> sorted(np.concatenate([fold.held_out for fold in folds]).tolist())
        [0, 1, 2, 3]
    """
    if folds < 2:
        raise OptionError(None, "folds", folds, "give two or more folds")
    if repeats < 1:
        raise OptionError(None, "repeats", repeats, "give one or more repeats")
    several = labels.ndim == 2
    if stratified and several:
        raise ValueError(f"images with several labels cannot be stratified: set {setting('stratified', False)}.")
    stratified = not several if stratified is None else stratified
    labelled = np.flatnonzero(labels.min(1) >= 0 if several else labels >= 0)
    if len(labelled) < folds:
        raise ValueError(f"{len(labelled)} labelled images do not make {folds} folds ({argument('folds')}).")
    strata = labels[labelled] if stratified else np.zeros(len(labelled), dtype=np.int64)
    kinds = None if groups is None else np.asarray(groups)[labelled]
    _check_sizes(strata, kinds, folds)
    return [
        Fold(repeat + 1, number, np.sort(labelled[held]))
        for repeat in range(repeats)
        for number, held in enumerate(_held_out(strata, kinds, folds, stratified, seed + repeat), 1)
    ]


def _held_out(
    strata: NDArray[Any], groups: NDArray[Any] | None, folds: int, stratified: bool, seed: int
) -> list[Positions]:
    from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

    if groups is not None:  # with one stratum it evens out the sizes alone
        splitter: Any = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    else:
        splitter = (StratifiedKFold if stratified else KFold)(folds, shuffle=True, random_state=seed)
    return [held for _, held in splitter.split(strata, strata, groups)]


def _check_sizes(strata: NDArray[Any], groups: NDArray[Any] | None, folds: int) -> None:
    if groups is not None:
        if (count := len(np.unique(groups))) < folds:
            raise ValueError(f"{count} groups do not make {folds} folds ({argument('folds')}).")
        return
    classes, counts = np.unique(strata, return_counts=True)
    if counts.min() < folds:
        raise ValueError(
            f"class {classes[counts.argmin()]} has {counts.min()} images for {folds} folds: give fewer folds "
            f"({argument('folds')}) or set {setting('stratified', False)}."
        )


def groups_by_pattern(names: Sequence[str], pattern: str) -> list[str]:
    r"""Return the group of each image, which a regular expression finds in its name.

    Args:
        names: Names of the images.
        pattern: The expression; its first group counts, or all of it where it has none.

    Raises:
        ValueError: If it is wrong, or does not match every name.

    Example:
        >>> groups_by_pattern(["cat/p1_a.png", "cat/p2_a.png"], r"p(\d+)_")
        ['1', '2']
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group_pattern {pattern!r} is no regular expression: {error}.") from None
    found = []
    for name in names:
        match = expression.search(name)
        if match is None:
            raise ValueError(f"--group_pattern {pattern!r} finds nothing in {name!r}: every image needs a group.")
        found.append(match[1] if expression.groups else match[0])
    return found


def groups_from_table(names: Sequence[str], path: str | Path) -> list[str]:
    """Return the group of each image from a CSV file with the names in its first column and a column `group`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such column, or an image is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(refusal(None, "groups", str(path), "there is no such table"))
    columns, rows, _ = read_csv(path, names=("",))
    if "group" not in columns:
        raise ValueError(f"{path} has no column `group`; it has {', '.join(columns)[:500]}.")
    if short := [line for line, row in rows if "group" not in row]:
        raise ValueError(f"{path}, line {short[0]}: it has no cell for the column `group`.")
    table = {row[columns[0]]: row["group"] for _, row in rows}
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} images are not in {path}, {missing[0]!r} first.")
    return [table[name] for name in names]
