"""Predicted quantities as a table."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lit_cv.atomic_files import atomic_write

__all__ = ["ValueTable"]

Part = tuple[Tensor, Tensor]


class ValueTable:
    """Collects quantities: `parts` holds for each batch the images' positions in the dataset (N,) and values (N, D)."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, values: Tensor, index: Tensor) -> None:
        """Take in the values (N, D) of a batch."""
        self.parts.append((index, values.float().flatten(1).cpu()))

    @staticmethod
    def write(path: Path, parts: Sequence[Part], samples: Mapping[int, str], name: str, head: str) -> int:
        """Write the table, in the order of the dataset.

        Args:
            path: The file.
            parts: What all processes have collected.
            samples: Name of each image by its position in the dataset.
            name: Name of the quantity; several are numbered from 0.
            head: Name of the first column.

        Returns:
            The number of images.
        """
        # Images that pad the last batches of several processes fall together here.
        rows = {int(i): value.tolist() for part in parts for i, value in zip(*part, strict=True)}
        width = len(next(iter(rows.values()), []))
        with atomic_write(path, "the table") as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([head, *([name] if width == 1 else [f"{name}_{number}" for number in range(width)])])
            writer.writerows([samples[index], *(f"{value:.6g}" for value in rows[index])] for index in sorted(rows))
        return len(rows)
