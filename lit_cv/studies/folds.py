"""Folds for cross-validation, made by scikit-learn's splitters."""

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
        repeat: Number of the split into folds, from 1.
        number: Number of the fold in this split, from 1.
        held_out: Positions of the images in the training pool, ascending.
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
    """Split labeled images into folds of similar size, so that each image is held out once per repeat.

    Args:
        labels: (N,) integers, with -1 for unlabeled images, which are never held out; or (N, K) of 0 and 1.
        folds: Number of folds, at least 2.
        repeats: Number of splits, each with another seed.
        stratified: Whether each fold keeps the class proportions; `None` does so if images have one label each.
        groups: Group of each image, such as its patient or scene: images of a group are all held out together.
        seed: Seed of the first split.

    Raises:
        ValueError: If there are too few images, groups or images of a class, or if images to stratify have several
            labels.

    Example:
        >>> folds = make_folds(np.array([0, 0, 1, 1]), folds=2)
        >>> sorted(np.concatenate([fold.held_out for fold in folds]).tolist())
        [0, 1, 2, 3]
    """
    if folds < 2:
        raise OptionError(None, "folds", folds, "must be two or more folds")
    if repeats < 1:
        raise OptionError(None, "repeats", repeats, "must be one or more repeats")
    multi_label = labels.ndim == 2
    if stratified and multi_label:
        raise ValueError(f"images with several labels cannot be stratified: set {setting('stratified', False)}.")
    stratified = not multi_label if stratified is None else stratified
    labeled = np.flatnonzero(labels.min(1) >= 0 if multi_label else labels >= 0)
    if len(labeled) < folds:
        raise ValueError(f"{len(labeled)} labeled images are too few for {folds} folds ({argument('folds')}).")
    strata = labels[labeled] if stratified else np.zeros(len(labeled), dtype=np.int64)
    labeled_groups = None if groups is None else np.asarray(groups)[labeled]
    _check_sizes(strata, labeled_groups, folds)
    return [
        Fold(repeat + 1, number, np.sort(labeled[held_out]))
        for repeat in range(repeats)
        for number, held_out in enumerate(_held_out(strata, labeled_groups, folds, stratified, seed + repeat), 1)
    ]


def _held_out(
    strata: NDArray[Any], groups: NDArray[Any] | None, folds: int, stratified: bool, seed: int
) -> list[Positions]:
    from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

    if groups is not None:  # with a single stratum it only balances the sizes
        splitter: Any = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    else:
        splitter = (StratifiedKFold if stratified else KFold)(folds, shuffle=True, random_state=seed)
    return [held_out for _, held_out in splitter.split(strata, strata, groups)]


def _check_sizes(strata: NDArray[Any], groups: NDArray[Any] | None, folds: int) -> None:
    if groups is not None:
        if (count := len(np.unique(groups))) < folds:
            raise ValueError(f"{count} groups are too few for {folds} folds ({argument('folds')}).")
        return
    classes, counts = np.unique(strata, return_counts=True)
    if counts.min() < folds:
        raise ValueError(
            f"class {classes[counts.argmin()]} has {counts.min()} images, too few for {folds} folds: give fewer folds "
            f"({argument('folds')}) or set {setting('stratified', False)}."
        )


def groups_by_pattern(names: Sequence[str], pattern: str) -> list[str]:
    r"""Return the group of each image, found in its name by a regular expression.

    Args:
        names: Names of the images.
        pattern: The regular expression; its first capturing group is used, or the whole match without one.

    Raises:
        ValueError: If the expression is invalid, or does not match every name.

    Example:
        >>> groups_by_pattern(["cat/p1_a.png", "cat/p2_a.png"], r"p(\d+)_")
        ['1', '2']
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise OptionError(None, "group_pattern", pattern, f"is not a regular expression ({error})") from None
    groups = []
    for name in names:
        match = expression.search(name)
        if match is None:
            raise OptionError(None, "group_pattern", pattern, f"does not match {name!r}; every image needs a group")
        groups.append(match[1] if expression.groups else match[0])
    return groups


def groups_from_table(names: Sequence[str], path: str | Path) -> list[str]:
    """Return the group of each image from a CSV file with image names in the first column and a column `group`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the column or an image is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(refusal(None, "groups", str(path), "the file does not exist"))
    columns, rows, _ = read_csv(path, names=("",))
    if "group" not in columns:
        raise ValueError(f"{path} has no column `group`; it has {', '.join(columns)[:500]}.")
    if short := [line for line, row in rows if "group" not in row]:
        raise ValueError(f"{path}, line {short[0]}: the column `group` has no cell.")
    table = {row[columns[0]]: row["group"] for _, row in rows}
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} images are not in {path}, {missing[0]!r} first.")
    return [table[name] for name in names]
