"""Table of parameter groups, with their learning rates."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["GroupRow", "print_groups"]


class GroupRow(NamedTuple):
    """A row of the table.

    Attributes:
        name: Name of the group.
        parameters: Number of parameter values.
        trainable: Whether it is trained, as text.
        lr: Peak learning rate.
    """

    name: str
    parameters: int
    trainable: str
    lr: float


def print_groups(title: str, rows: Sequence[GroupRow]) -> None:
    """Print a title and a table of the groups."""
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
