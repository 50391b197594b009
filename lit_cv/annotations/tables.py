"""Lenient handling of image tables: column names in another case, image names without suffix, odd labels."""

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from lit_cv.annotations.reading import is_file
from lit_cv.annotations.split_folders import SPLIT_NAMES
from lit_cv.annotations.walk import FolderIndex
from lit_cv.errors import argument, setting
from lit_cv.image_formats import IMAGE_SUFFIXES
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["SPLIT_COLUMN", "check_texts", "complete_names", "find_split_column", "report_odd_labels"]

log = logging.getLogger("lit_cv")

SPLIT_COLUMN = "split"
"""Default name of the split column."""

_NO_LABELS = frozenset(("nan", "none", "null", "na", "n/a", "<na>", "-1"))  # written by programs for missing labels
_SHOWN = 5  # names listed in a message

Table = list[dict[str, str]]


def find_split_column(table: Table, path: str, wanted: str, others: Sequence[str], owner: object = None) -> None:
    """Rename the split column to `wanted` if it differs only in case; warn if another column seems to be meant.

    Args:
        table: The rows, changed in place.
        path: Path of the table, for messages.
        wanted: Expected name of the column.
        others: Other columns that may contain splits.
        owner: Object with the argument `split_column`, if any.

    Raises:
        ValueError: If the column was chosen by name but is missing.
    """
    columns = list(table[0])
    if wanted in columns:
        return
    if len(found := [name for name in columns if name.lower() == wanted.lower()]) == 1:
        for row in table:
            row[wanted] = row.pop(found[0])
        return
    shown = printable(path, lines=False)
    if wanted != SPLIT_COLUMN:
        listed = printable(", ".join(columns), lines=False)
        hint = nearest(wanted, columns)
        raise ValueError(
            f"{shown} has no column {wanted!r} ({argument('split_column', owner)}){hint} Its columns: {listed}."
        )
    words = {*SPLIT_NAMES, "predict"}
    if likely := [name for name in others if {row[name].lower() for row in table} <= words]:
        name = printable(likely[0], lines=False)
        advice = f"rename it to {SPLIT_COLUMN}"
        if owner is not None:
            advice = f"use {setting('split_column', name, owner)}"
        log.warning(
            "%s has no column %s, so its images have no splits, but its column %s contains splits: %s.",
            *(shown, SPLIT_COLUMN, name, advice),
        )


def complete_names(table: Table, column: str, root: Path) -> None:
    """Add the missing suffix to image names that match exactly one image.

    Args:
        table: The rows, changed in place.
        column: Column of the names.
        root: Folder that they are relative to.
    """
    index = FolderIndex(root)
    for row in table:
        name = row[column]
        if name and os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES and not is_file(root / name):
            found = index.named(Path(name))
            row[column] = found[0].as_posix() if len(found) == 1 else name


def check_texts(table: Table, path: str, columns: Collection[str]) -> None:
    """Raise if a label has several lines: an unclosed quotation mark absorbs the rows below.

    Raises:
        ValueError: If there is such a label.
    """
    for row in table:
        for column in columns:
            if "\n" in row[column] or "\r" in row[column]:
                shown, file = printable(row[column][:60], lines=False), printable(path, lines=False)
                raise ValueError(
                    f"{file}: the {column} '{shown}' has several lines. Close or double the quotation mark before it."
                )


def report_odd_labels(path: str, names: Iterable[str]) -> None:
    """Warn about classes that look like missing labels, and about class names that differ only in case."""
    names, shown = sorted(names), printable(path, lines=False)
    if placeholders := [name for name in names if name.lower() in _NO_LABELS]:
        log.warning(
            "%s: %s is read as a class. Leave the cells of unlabeled images empty.", shown, _listed(placeholders)
        )
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    if similar := [spellings for spellings in folded.values() if len(spellings) > 1]:
        log.warning(
            "%s has class names that differ only in case: %s.", shown, "; ".join(_listed(s) for s in similar[:_SHOWN])
        )


def _listed(names: Sequence[str]) -> str:
    return printable(", ".join(names[:_SHOWN]), lines=False)
