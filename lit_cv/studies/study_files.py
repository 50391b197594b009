"""Read and write the plan and the tables of a study; their contents are checked when read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cv.atomic_files import write_text
from lit_cv.csv_tables import csv_text, parse_count, parse_number, read_csv
from lit_cv.errors import argument
from lit_cv.plain_values import require_plain
from lit_cv.printable import printable
from lit_cv.spreadsheet import escape_formula, unescape_formula

__all__ = [
    "ALWAYS",
    "Row",
    "damaged",
    "read_json",
    "read_run_rows",
    "read_study_table",
    "write_json",
    "write_study_table",
]

Row = dict[str, Any]
"""A row of a table: its cells by column."""

ALWAYS = ("key", "steps", "wall_seconds", "error")
"""Required columns in the table of a study's runs."""

_TEXTS = ("key", "error")  # columns without numbers in the table of runs
_ESCAPED = "formulas"  # column that marks tables whose names are escaped
_NAMES = ("approach", "title", "data", "error")
_MAX_BYTES = 1 << 25
_MAX_SECONDS = 1e10


def damaged(path: Path, why: str) -> ValueError:
    """Return the error for a damaged file of a study."""
    return ValueError(
        f"{path} is damaged: {why}. Delete it to repeat its runs, or choose another folder ({argument('output')})."
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON file of a study; return `None` if it does not exist.

    Raises:
        ValueError: If it does not hold a plain dict.
    """
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
        require_plain(content, "it")
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).rstrip(".")
        raise damaged(path, why) from None
    if not isinstance(content, dict):
        raise damaged(path, "it does not hold a dict")
    return content


def write_json(path: Path, content: Mapping[str, Any], what: str) -> None:
    """Write a JSON file atomically; make its folder if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1), what)


def read_study_table(path: Path) -> list[Row]:
    """Read a table of `write_study_table`; return no rows if the file does not exist.

    Raises:
        ValueError: If the table is damaged; the message names it.
    """
    if not path.is_file():
        return []
    try:
        columns, rows, _ = read_csv(path, max_bytes=_MAX_BYTES)
    except ValueError as error:
        raise damaged(path, str(error).removeprefix(str(path)).lstrip(", ").rstrip(".")) from None
    for line, cells in rows:
        if len(cells) < len(columns):
            raise damaged(path, f"line {line} has {len(cells)} cells for {len(columns)} columns")
    table: list[Row] = [dict(cells) for _, cells in rows]
    if _ESCAPED in columns:
        for row in table:
            del row[_ESCAPED]
            row |= {name: unescape_formula(row[name]) for name in _NAMES if name in row}
    return table


def read_run_rows(path: Path) -> list[Row]:
    """Read the table of a study's runs, and check its cells."""
    rows = read_study_table(path)
    for number, row in enumerate(rows, 1):
        try:
            _check_row(row, f"row {number}")
        except ValueError as error:
            raise damaged(path, str(error).rstrip(".")) from None
    return rows


def _check_row(row: Row, where: str) -> None:
    if missing := [name for name in ALWAYS if name not in row]:
        raise ValueError(f"it has no column {missing[0]}")
    for name, cell in row.items():
        if name not in _TEXTS and cell:
            parse_number(cell, f"{where}, column {printable(name, lines=False)[:60]}")
    if not row["error"]:
        row["steps"] = parse_count(row["steps"], f"{where}, column steps", least=1)
        seconds = parse_number(row["wall_seconds"], f"{where}, column wall_seconds")
        if not 0 <= seconds < _MAX_SECONDS:
            raise ValueError(f"{where}, column wall_seconds: {seconds} is not a duration")


def write_study_table(path: Path, rows: Sequence[Row], last: Sequence[str] = (), escape_formulas: bool = False) -> None:
    """Write a table atomically, with the columns of all rows.

    Args:
        path: The file; its folder is made if it does not exist.
        rows: The rows.
        last: Columns to put after the others.
        escape_formulas: Whether to escape names that a spreadsheet would evaluate; `read_study_table` undoes this.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [name for name in names if name not in last] + [name for name in last if name in names]
    cells = [[row.get(name, "") for name in columns] for row in rows]
    if escape_formulas:
        cells = [[*map(_escaped, columns, line), "escaped"] for line in cells]
        columns = [*columns, _ESCAPED]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, csv_text([columns, *cells]), "the table")


def _escaped(name: str, cell: Any) -> Any:
    return escape_formula(cell) if name in _NAMES and isinstance(cell, str) else cell
