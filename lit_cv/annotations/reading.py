"""Files as others have written them: texts, tables, and names that may be none."""

import csv
from pathlib import Path

from lit_cv.annotations.records import AnnotationError

__all__ = ["exists", "is_file", "read_rows", "read_text"]


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        AnnotationError: If it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not text in UTF-8: {error}") from None


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table: UTF-8, commas or semicolons (tabs in a file named `.tsv`), a line of column names.

    Returns:
        A dict for each row, the text without spaces around it, "" where a row is too short.

    Raises:
        ValueError: If it is not such a table; the message names it.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            between = ";" if ";" in first and "," not in first else ","  # as spreadsheets in half of Europe write
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else between)
            return [{name: (value or "").strip() for name, value in row.items() if name} for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table in UTF-8: {error}") from None


def is_file(path: Path) -> bool:
    """Tell whether there is such a file; a name that the system has no place for is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Tell whether there is such a file or folder; a name that the system has no place for is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
