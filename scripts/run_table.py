"""A table of finished runs, which a restarted script continues."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["RunTable"]


class RunTable:
    """A CSV file with a row for each finished run.

    Args:
        path: The file; it is created with the first row.
        columns: Its columns.
        keys: Columns that identify a run.
    """

    def __init__(self, path: str | Path, columns: Sequence[str], keys: Sequence[str]) -> None:
        self.path, self.columns, self.keys = Path(path).resolve(), columns, keys

    def rows(self) -> list[dict[str, str]]:
        """Return all rows."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def lacks(self, *key: Any) -> bool:
        """Return whether no row has these values in the key columns."""
        return list(map(str, key)) not in [[row[name] for name in self.keys] for row in self.rows()]

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Append rows, at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            if new:
                writer.writeheader()
            writer.writerows(rows)
