"""Reading the `metrics.csv` of a run, without Lightning."""

from pathlib import Path

from lit_cv.csv_tables import parse_count, parse_number, read_csv
from lit_cv.printable import printable

__all__ = ["read_metrics"]


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Read a `metrics.csv` into a dict for each row, without empty cells.

    Args:
        path: The file.

    Returns:
        Rows in the order of the file; every row has `step`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a cell is not a number; the message names the file and the line.
    """
    table = read_csv(path)
    rows = []
    for number, (line, cells) in enumerate(table.rows, 1):
        if not cells.get("step"):  # the last line of a killed run may be cut off before it
            continue
        where = f"{path}, line {line}"
        try:
            rows.append({name: _number(name, cell, where) for name, cell in cells.items() if name and cell})
        except ValueError:
            if table.complete or number < len(table.rows):  # or within a number
                raise
    return rows


def _number(name: str, cell: str, where: str) -> float:
    parse = parse_count if name in ("epoch", "step") else parse_number
    return parse(cell, f"{where}, column {printable(name, lines=False)[:60]}")
