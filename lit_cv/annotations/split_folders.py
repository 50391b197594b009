"""Folders named after splits. Pure Python."""

import os
import re
from pathlib import Path

from lit_cv.annotations.clutter import is_clutter
from lit_cv.annotations.layout import SPLITS

__all__ = ["SPLIT_NAMES", "is_named_for_split", "split_folders", "split_names"]

SPLIT_NAMES: dict[str, str] = {name: split for split, names in SPLITS.items() for name in names}
"""Split by lowercase folder name."""

_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?=(set)?(?![a-z]))")


def split_folders(root: Path) -> dict[str, Path]:
    """Return the existing folders of `train`, `val` and `test` in a folder.

    Their names are those in `SPLITS`, ignoring case (`Train`, `TESTING`, `valid`), or contain such a name within the
    same text (`seg_train` and `seg_test`, `train2017` and `val2017`, `training_set` and `test_set`). If a folder
    contains only a folder of the same name (`seg_train/seg_train`), the inner one is returned.

    Args:
        root: The folder.
    """
    by_pattern: dict[str, dict[str, str]] = {}
    for name in sorted(_folders(root), key=_preference):
        words = list(_WORD.finditer(name.lower()))
        if len(words) == 1:
            word = words[0]
            pattern = f"{name[: word.start()]}*{name[word.end() :]}".lower()
            by_pattern.setdefault(pattern, {}).setdefault(SPLIT_NAMES[word[1]], name)
    groups = [group for pattern, group in by_pattern.items() if pattern != "*" and "train" in group and len(group) > 1]
    plain = by_pattern.get("*", {})
    chosen = plain if "train" in plain or len(groups) != 1 else groups[0]
    return {split: _innermost(root / chosen[split]) for split in SPLITS if split in chosen}


def is_named_for_split(name: str) -> bool:
    """Return whether a folder name contains the name of a split.

    Example:
        >>> is_named_for_split("fold_1_train"), is_named_for_split("trainers")
        (True, False)
    """
    return _WORD.search(name.lower()) is not None


def split_names(*folders: Path) -> dict[str, tuple[str, ...]]:
    """Return possible folder names of each split: those of `SPLITS`, and those found in the given folders."""
    found = [(folder, split_folders(folder)) for folder in folders]
    return {
        split: tuple(dict.fromkeys([*names, *(f[split].relative_to(at).as_posix() for at, f in found if split in f)]))
        for split, names in SPLITS.items()
    }


def _preference(name: str) -> tuple[int, bool, str]:
    """Return a sort key that prefers the first name in `SPLITS`, then lower case."""
    spellings = list(SPLIT_NAMES)
    return (spellings.index(name.lower()) if name.lower() in spellings else len(spellings), name != name.lower(), name)


def _innermost(folder: Path) -> Path:
    inner = _folders(folder)
    return folder / folder.name if inner == [folder.name] else folder


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_clutter(entry.name)]
