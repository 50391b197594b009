"""Tables as files: written so that every name comes back, read so that a damaged one takes one line. Pure Python."""

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

_LARGEST = 2**53  # integers up to which floats are exact


class CSVTable(NamedTuple):
    """A table as it was read.

    Attributes:
        columns: Names of its columns.
        rows: For each row its last line in the file, and its cells by column, without those that are missing.
        whole: Whether its last line ends.
    """

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    whole: bool


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Return the text of a table.

    Args:
        rows: The cells of each row, the names of the columns first.

    Example:
        >>> csv_text([["name", "value"], ["a,\rb", 1]])
        'name,value\n"a,\rb","1"\n'
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # Python before 3.13 leaves a lone carriage return bare, which a reader takes for the end of the row.
        (quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else plain).writerow(row)
    return text.getvalue()


def read_csv(path: str | Path, names: Sequence[str] = (), most: int | None = None) -> CSVTable:
    """Read a table in UTF-8 with commas and a line of column names.

    Args:
        path: The file.
        names: Columns of file names, whose bytes need not be UTF-8; "" stands for the first column.
        most: Bytes that it may have.

    Returns:
        The table.

    Raises:
        OSError: If it cannot be read, or is no plain file.
        ValueError: If it is no such table; the message names the file and the line.
    """
    text = _read(path, most)
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
                raise ValueError(f"{path}, line {reader.line_num}: it is not text in UTF-8.")
            if cells:
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: it is not a table: {error}.") from None
    if any(not _is_text(name) for name in columns):
        raise ValueError(f"{path}, line 1: it is not text in UTF-8.")
    return CSVTable(columns, rows, text.endswith(("\n", "\r")))


def parse_number(cell: str | None, where: str) -> float:
    """Return the number in a cell, which may be infinite or `nan`.

    Args:
        cell: The cell, `None` where there is none.
        where: What an error calls the place.

    Raises:
        ValueError: If it holds none.

    Example:
        >>> parse_number("1e-3", "table.csv, line 2, column lr")
        0.001
    """
    try:
        return float(cell or "")
    except ValueError:
        raise ValueError(f"{where}: {_shown(cell)} is no number: correct it, or remove the line.") from None


def parse_count(cell: str | None, where: str, least: int = 0) -> int:
    """Return the whole number in a cell.

    Raises:
        ValueError: If it holds none, or one that is too small or absurdly large.

    Example:
        >>> parse_count("3", "table.csv, line 2, column step")
        3
    """
    number = parse_number(cell, where)
    if not math.isfinite(number) or number != int(number) or not least <= number <= _LARGEST:
        raise ValueError(f"{where}: {_shown(cell)} is no whole number from {least} on: correct it, or remove the line.")
    return int(number)


def _read(path: str | Path, most: int | None) -> str:
    """Return the text of a plain file; a pipe is not waited for."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is no plain file, where a table is to be: move it away.")
        if most is not None and found.st_size > most:
            raise ValueError(f"{path} has {found.st_size:,} bytes, over the limit of {most:,}: it is no such table.")
        return file.read().decode("utf-8-sig", "surrogateescape")


def _is_text(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _shown(cell: str | None) -> str:
    text = printable(cell or "", lines=False)
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
