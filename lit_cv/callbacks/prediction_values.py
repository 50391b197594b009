"""Predicted quantities as rows of a table."""

from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["ValueTable"]


class ValueTable:
    """Makes rows of quantities.

    Args:
        name: Name of the quantity; several are numbered from 0.
        width: How many there are for each image.
        shown: What names are written as.
    """

    def __init__(self, name: str, width: int, shown: Callable[[str], str] = str) -> None:
        self.name = name
        self.width = width
        self.shown = shown

    def columns(self, head: str) -> list[str]:
        """Return the names of the columns, of which `head` is the first."""
        return [head, *([self.name] if self.width == 1 else [f"{self.name}_{k}" for k in range(self.width)])]

    def rows(self, values: Tensor, samples: Sequence[str]) -> list[list[str]]:
        """Return the rows of a batch.

        Args:
            values: (N, D).
            samples: Names of the images.
        """
        found = values.float().flatten(1).cpu().tolist()
        return [
            [self.shown(sample), *(f"{value:.6g}" for value in row)] for sample, row in zip(samples, found, strict=True)
        ]
