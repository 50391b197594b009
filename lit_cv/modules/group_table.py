"""A table of what learns in a run, and how fast."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["GroupRow", "print_groups"]


class GroupRow(NamedTuple):
    """A row of the table.

    Attributes:
        name: Name of the group.
        parameters: How many numbers it holds.
        trainable: Whether it learns, in words.
        lr: Its learning rate at the peak of the schedule.
    """

    name: str
    parameters: int
    trainable: str
    lr: float


def print_groups(title: str, rows: Sequence[GroupRow]) -> None:
    """Print the table."""
    from rich import get_console
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("group")
    table.add_column("parameters", justify="right")
    table.add_column("trainable")
    table.add_column("lr", justify="right")
    for row in rows:
        style = "dim" if row.trainable == "no" else ""
        table.add_row(row.name, f"{row.parameters:,}", row.trainable, f"{row.lr:.3g}", style=style)
    get_console().print(title, style="bold", highlight=False)
    get_console().print(table)
