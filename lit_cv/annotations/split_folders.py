"""Folders of splits, as people name them. Pure Python."""

import os
import re
from pathlib import Path

from lit_cv.annotations.clutter import is_clutter
from lit_cv.annotations.layout import SPLITS

__all__ = ["SPLIT_NAMES", "is_named_for_split", "split_folders", "split_names"]

SPLIT_NAMES: dict[str, str] = {name: split for split, names in SPLITS.items() for name in names}
"""The split that a word stands for, in lower case."""

_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?=(set)?(?![a-z]))")


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of `train`, `val` and `test` in a folder, as far as there are some.

    They have one of the names in `SPLITS` in any case (`Train`, `TESTING`, `valid`), or such a name with the same words
    around it in each (`seg_train` and `seg_test`, `train2017` and `val2017`, `training_set` and `test_set`). A folder
    that holds nothing but one of its own name (`seg_train/seg_train`) stands for that.

    Args:
        root: The folder.
    """
    by_rest: dict[str, dict[str, str]] = {}
    for name in sorted(_folders(root), key=_rank):
        found = list(_WORD.finditer(name.lower()))
        if len(found) == 1:
            word = found[0]
            rest = f"{name[: word.start()]}*{name[word.end() :]}".lower()
            by_rest.setdefault(rest, {}).setdefault(SPLIT_NAMES[word[1]], name)
    groups = [group for rest, group in by_rest.items() if rest != "*" and "train" in group and len(group) > 1]
    plain = by_rest.get("*", {})
    chosen = plain if "train" in plain or len(groups) != 1 else groups[0]
    return {split: _innermost(root / chosen[split]) for split in SPLITS if split in chosen}


def is_named_for_split(name: str) -> bool:
    """Tell whether the name of a folder speaks of a split.

    Example:
        >>> is_named_for_split("fold_1_train"), is_named_for_split("trainers")
        (True, False)
    """
    return _WORD.search(name.lower()) is not None


def split_names(*folders: Path) -> dict[str, tuple[str, ...]]:
    """Return the names that folders of each split may have: those of `SPLITS`, and those found in some folders."""
    found = [(folder, split_folders(folder)) for folder in folders]
    return {
        split: tuple(dict.fromkeys([*names, *(f[split].relative_to(at).as_posix() for at, f in found if split in f)]))
        for split, names in SPLITS.items()
    }


def _rank(name: str) -> tuple[int, bool, str]:
    """Return what folders of one split are chosen by: the first spelling in `SPLITS`, rather in lower case."""
    spellings = list(SPLIT_NAMES)
    return (spellings.index(name.lower()) if name.lower() in spellings else len(spellings), name != name.lower(), name)


def _innermost(folder: Path) -> Path:
    inner = _folders(folder)
    return folder / folder.name if inner == [folder.name] else folder


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_clutter(entry.name)]
