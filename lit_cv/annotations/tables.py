"""Tables of images as people have them: columns in other letters, names without suffixes, labels that may be none."""

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
"""The column of the splits where no other is named."""

_NO_LABELS = frozenset(("nan", "none", "null", "na", "n/a", "<na>", "-1"))  # what programs write for a missing label
_SHOWN = 5  # names that a message lists

Table = list[dict[str, str]]


def find_split_column(table: Table, path: str, wanted: str, others: Sequence[str], owner: object = None) -> None:
    """Give the column of the splits the name that is wanted, if it differs in case alone; say what may be meant.

    Args:
        table: The rows, changed in place.
        path: The table, for messages.
        wanted: Name of the column.
        others: Columns that may hold splits.
        owner: The object whose argument `split_column` names it, if there is one.

    Raises:
        ValueError: If a column was named and is missing.
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
            f"{shown} has no column {wanted!r} ({argument('split_column', owner)}){hint} It has: {listed}."
        )
    words = {*SPLIT_NAMES, "predict"}
    if likely := [name for name in others if {row[name].lower() for row in table} <= words]:
        name = printable(likely[0], lines=False)
        advice = f"rename it to {SPLIT_COLUMN}"
        if owner is not None:
            advice = f"{setting('split_column', name, owner)} takes it"
        log.warning(
            "%s has no column %s, so its images are in no splits; its column %s names splits: %s.",
            *(shown, SPLIT_COLUMN, name, advice),
        )


def complete_names(table: Table, column: str, root: Path) -> None:
    """Add the suffix to names that lack it, where one image alone is named so.

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
    """Refuse labels over several lines: a quotation mark that is not closed swallows the rows below.

    Raises:
        ValueError: If there is one.
    """
    for row in table:
        for column in columns:
            if "\n" in row[column] or "\r" in row[column]:
                shown, file = printable(row[column][:60], lines=False), printable(path, lines=False)
                raise ValueError(
                    f"{file}: the {column} '{shown}' has several lines. Close the quotation mark before it, or double "
                    "it."
                )


def report_odd_labels(path: str, names: Iterable[str]) -> None:
    """Say which classes are probably none: marks of a missing label, and spellings that differ in case alone."""
    names, shown = sorted(names), printable(path, lines=False)
    if marks := [name for name in names if name.lower() in _NO_LABELS]:
        log.warning("%s: %s is read as a class. Leave the cell of an unlabeled image empty.", shown, _listed(marks))
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    if alike := [spellings for spellings in folded.values() if len(spellings) > 1]:
        log.warning(
            "%s has classes whose names differ in case alone: %s.", shown, "; ".join(_listed(s) for s in alike[:_SHOWN])
        )


def _listed(names: Sequence[str]) -> str:
    return printable(", ".join(names[:_SHOWN]), lines=False)
