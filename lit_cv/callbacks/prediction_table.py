"""Predicted classes as a table."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lit_cv.atomic_files import atomic_write

__all__ = ["ClassTable"]

_ALL = 20  # classes up to which the probabilities of all are written
_TOP = 5  # otherwise those of the likeliest

Part = tuple[Tensor, Tensor, Tensor]


class ClassTable:
    """Collects probabilities: all of them if there are few classes, otherwise the highest.

    `parts` holds for each batch the images' positions in the dataset (N,), probabilities (N, K) from the highest on,
    and their classes (N, K).
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.classes = 0

    def add(self, probabilities: Tensor, index: Tensor) -> None:
        """Take in the probabilities (N, K) of a batch."""
        self.classes = probabilities.shape[1]
        values, classes = probabilities.float().topk(self.classes if self.classes <= _ALL else _TOP)
        self.parts.append((index, values.cpu(), classes.cpu()))

    def write(
        self,
        path: Path,
        parts: Sequence[Part],
        samples: Mapping[int, str],
        names: Sequence[str] | None,
        several: bool,
        least: float | None,
        unsure_first: bool,
        head: str,
    ) -> int:
        """Write the table.

        Args:
            path: The file.
            parts: What all processes have collected.
            samples: Name of each image by its position in the dataset.
            names: Names of the classes; `None` takes their numbers.
            several: Whether an image has several labels.
            least: Least probability of a class that is predicted.
            unsure_first: Whether the least certain images come first.
            head: Name of the first column.

        Returns:
            The number of images.
        """
        # Images that pad the last batches of several processes fall together here.
        rows = {int(i): (v, c) for part in parts for i, v, c in zip(*part, strict=True)}
        names = names or [str(number) for number in range(self.classes)]
        least = (0.5 if several else 0.0) if least is None else least
        order = sorted(rows)
        if unsure_first:
            order.sort(key=lambda index: _certainty(rows[index][0], several))
        with atomic_write(path, "the table") as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([head, "predicted", "probability", *self._columns(names)])
            for index in order:
                values, classes = (tensor.tolist() for tensor in rows[index])
                chosen = [names[c] for v, c in zip(values, classes, strict=True) if v >= least]
                shown = "|".join(chosen if several else chosen[:1])
                writer.writerow([samples[index], shown, f"{values[0]:.6f}", *self._cells(values, classes, names)])
        return len(rows)

    def _columns(self, names: Sequence[str]) -> list[str]:
        if self.classes <= _ALL:
            return [f"p_{name}" for name in names]
        return [column for k in range(2, _TOP + 1) for column in (f"top{k}", f"top{k}_probability")]

    def _cells(self, values: list[float], classes: list[int], names: Sequence[str]) -> Iterator[str]:
        if self.classes <= _ALL:
            by_class = dict(zip(classes, values, strict=True))
            yield from (f"{by_class[index]:.6f}" for index in range(self.classes))
        else:
            for value, index in zip(values[1:], classes[1:], strict=True):
                yield names[index]
                yield f"{value:.6f}"


def _certainty(values: Tensor, several: bool) -> float:
    """Return how certain a prediction is: the probability of its class, or of several the least distance to 0.5."""
    return float(torch.abs(values - 0.5).min()) if several else float(values[0])
