"""Table rows of predicted values."""

from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["ValueTable"]


class ValueTable:
    """Formats predicted values as rows.

    Args:
        name: Name of the quantity; several values per image are numbered from 0.
        width: Number of values per image.
        shown: Function that converts names for the table.
    """

    def __init__(self, name: str, width: int, shown: Callable[[str], str] = str) -> None:
        self.name = name
        self.width = width
        self.shown = shown

    def columns(self, head: str) -> list[str]:
        """Return the column names, starting with `head`."""
        return [head, *([self.name] if self.width == 1 else [f"{self.name}_{k}" for k in range(self.width)])]

    def rows(self, values: Tensor, samples: Sequence[str]) -> list[list[str]]:
        """Return the rows of a batch.

        Args:
            values: (N, D).
            samples: Names of the images.
        """
        numbers = values.float().flatten(1).cpu().tolist()
        return [
            [self.shown(sample), *(f"{value:.6g}" for value in row)]
            for sample, row in zip(samples, numbers, strict=True)
        ]
