"""Compare the detected objects of a program with those of a module."""

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

__all__ = ["BOX_ENTRIES", "ObjectComparison", "box_outputs"]

log = logging.getLogger("lit_cv")

BOX_ENTRIES = ("boxes", "scores", "labels")
"""Names of the outputs that describe objects, after the prefix of a task."""

_TOLERANCE = 1e-4
_BORDERLINE = 0.01  # share of objects that rounding may select differently


def box_outputs(names: Iterable[str]) -> list[str]:
    """Return the prefixes of the outputs that describe objects.

    Example:
        >>> box_outputs(["shape", "cells_boxes", "cells_scores", "cells_labels"]), box_outputs(["logits"])
        (['cells_'], [])
    """
    present = list(names)
    prefixes = [name.removesuffix("boxes") for name in present if name.endswith("boxes")]
    return [prefix for prefix in prefixes if {f"{prefix}{entry}" for entry in BOX_ENTRIES} <= set(present)]


class ObjectComparison:
    """Compares objects regardless of their order, which rounding may change where scores are almost equal.

    An object equals another one of the same image and class if its score and its coordinates, relative to the largest
    one, differ by at most 1e-4. Where a score or an overlap is almost at its threshold, rounding may also select
    different objects: at most 1 % of all objects may lack an equal one.
    """

    def __init__(self) -> None:
        self.distances: list[Tensor] = []
        self.wrong: list[str] = []

    def add(self, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """Add the objects of N images: `boxes` (N, K, 4), `scores` (N, K), 0 in unused rows, and `labels` (N, K)."""
        shapes = [{name: tuple(value.shape) for name, value in each.items()} for each in (actual, expected)]
        if shapes[0] != shapes[1]:
            self.wrong.append(f"its outputs have the shapes {shapes[0]} instead of {shapes[1]}")
            return
        scale = max(1.0, float(expected["boxes"].abs().max()))
        for i in range(len(expected["scores"])):
            first, second = ({name: value[i][each["scores"][i] != 0] for name, value in each.items()}
                             for each in (actual, expected))  # fmt: skip
            distance = _distances(first, second, scale)
            self.distances += [
                distance.min(dim).values if distance.shape[dim] else distance.new_full((distance.shape[1 - dim],), 1.0)
                for dim in (0, 1)
            ]

    def difference(self, file: str) -> float:
        """Return the largest difference between equal objects, and log a warning if there were no objects.

        Args:
            file: Name of the program's file.

        Raises:
            ValueError: If the objects are not equal.
        """
        if self.wrong:
            raise ValueError(f"{file}: {self.wrong[0]}: nothing was written.")
        distances = torch.cat(self.distances) if self.distances else torch.zeros(0)
        if not len(distances):
            log.warning("%s: no objects were detected in the images that it was checked with.", file)
            return 0.0
        equal = distances <= _TOLERANCE
        if (missing := int((~equal).sum())) > _BORDERLINE * len(distances):
            raise ValueError(
                f"{file}: {missing} of {len(distances)} objects of the program and the module have no equal object of "
                "the other: nothing was written."
            )
        return float(distances[equal].max())


def _distances(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], scale: float) -> Tensor:
    """Return the differences (n, m) between objects; at least 1 between different classes."""
    boxes = (actual["boxes"][:, None] - expected["boxes"]).abs().amax(2) / scale
    scores = (actual["scores"][:, None] - expected["scores"]).abs()
    classes = (actual["labels"][:, None] != expected["labels"]).float()
    return torch.stack([boxes, scores, classes]).amax(0)
