"""CSV files: written so that every name is read back unchanged, with one-line errors for damaged ones. Pure Python."""

import csv
import io
import math
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_cv.printable import printable

__all__ = ["CSVTable", "csv_text", "parse_count", "parse_number", "read_csv"]

_LARGEST = 2**53  # floats are exact for integers up to this one


class CSVTable(NamedTuple):
    """The content of a CSV file.

    Attributes:
        columns: Names of its columns.
        rows: For each row the number of its last line in the file, and its cells by column; missing cells are absent.
        complete: Whether the last line ends with a line break.
    """

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    complete: bool


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Return a table as CSV text.

    Args:
        rows: The cells of each row; the first row holds the column names.

    Example:
        >>> csv_text([["name", "value"], ["a,\rb", 1]])
        'name,value\n"a,\rb","1"\n'
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # Python before 3.13 does not quote a lone carriage return, which readers take for the end of the row.
        (quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else plain).writerow(row)
    return text.getvalue()


def read_csv(path: str | Path, names: Sequence[str] = (), max_bytes: int | None = None) -> CSVTable:
    """Read a comma-separated table in UTF-8 whose first line holds the column names.

    Args:
        path: The file.
        names: Columns of file names, whose bytes need not be UTF-8; "" stands for the first column.
        max_bytes: Largest size of the file in bytes.

    Returns:
        The table.

    Raises:
        OSError: If it cannot be read, or is not a regular file.
        ValueError: If it is not such a table; the message names the file and the line.
    """
    text = _read(path, max_bytes)
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[tuple[int, dict[str, str]]] = []
    columns: list[str] = []
    allowed: set[str] = set()
    try:
        for cells in reader:
            if not columns:
                columns = [cell.removeprefix("\ufeff") for cell in cells]
                allowed = {name or columns[0] for name in names} if columns else set()
                continue
            row = dict(zip(columns, cells, strict=False))
            if any(not _is_text(value) for name, value in row.items() if name not in allowed):
                raise ValueError(f"{path}, line {reader.line_num}: not valid UTF-8.")
            if cells:
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not valid CSV: {error}.") from None
    if any(not _is_text(name) for name in columns):
        raise ValueError(f"{path}, line 1: not valid UTF-8.")
    return CSVTable(columns, rows, text.endswith(("\n", "\r")))


def parse_number(cell: str | None, where: str) -> float:
    """Return the number in a cell, which may be infinite or `nan`.

    Args:
        cell: The cell, `None` if it is missing.
        where: The location of the cell, for messages.

    Raises:
        ValueError: If it does not hold a number.

    Example:
        >>> parse_number("1e-3", "table.csv, line 2, column lr")
        0.001
    """
    try:
        return float(cell or "")
    except ValueError:
        raise ValueError(f"{where}: {_shown(cell)} is not a number: correct it, or remove the line.") from None


def parse_count(cell: str | None, where: str, least: int = 0) -> int:
    """Return the integer in a cell.

    Raises:
        ValueError: If it does not hold an integer from `least` to 2**53.

    Example:
        >>> parse_count("3", "table.csv, line 2, column step")
        3
    """
    number = parse_number(cell, where)
    if not math.isfinite(number) or number != int(number) or not least <= number <= _LARGEST:
        raise ValueError(f"{where}: {_shown(cell)} is not an integer >= {least}: correct it, or remove the line.")
    return int(number)


def _read(path: str | Path, max_bytes: int | None) -> str:
    """Return the text of a regular file; do not wait for a pipe."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file, but a table is needed here: move it away.")
        if max_bytes is not None and status.st_size > max_bytes:
            raise ValueError(f"{path} has {status.st_size:,} bytes, over the limit of {max_bytes:,} for such a table.")
        return file.read().decode("utf-8-sig", "surrogateescape")


def _is_text(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _shown(cell: str | None) -> str:
    text = printable(cell or "", lines=False)
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
