"""Tables as text files."""

import csv
from pathlib import Path

__all__ = ["read_rows"]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table: UTF-8, commas (tabs in a file named `.tsv`), a line of column names.

    Returns:
        A dict for each row, the text without spaces around it, "" where a row is too short.

    Raises:
        ValueError: If it is not such a table; the message names it.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            return [{name: (value or "").strip() for name, value in row.items() if name} for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table in UTF-8: {error}") from None
