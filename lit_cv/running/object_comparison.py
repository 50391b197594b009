"""Compare the detected objects of a program with those of a module."""

import logging
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

__all__ = ["BOX_ENTRIES", "MASKS", "ObjectComparison", "box_outputs"]

log = logging.getLogger("lit_cv")

BOX_ENTRIES = ("boxes", "scores", "labels")
"""Names of the outputs that describe objects, after the prefix of a task; `masks` may be added."""

MASKS = "masks"
"""Name of the output with the pixels of objects, likewise."""

_TOLERANCE = 1e-4
_BORDERLINE = 0.01  # share of objects that rounding may select differently, or of pixels of a mask
_TIE = 1e-5  # scores that differ by less are equal up to rounding

Objects = Mapping[str, Tensor]


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
    different objects: at most 1 % of all objects may lack an equal one. Masks of equal objects differ in at most one
    pixel, or 1 % of their pixels.

    Of objects with equal scores, as an untrained detector or an empty image has, any may be selected. Two objects of
    equal scores therefore count as equal if the one of the program is among the module's candidates.
    """

    def __init__(self) -> None:
        self.distances: list[Tensor] = []
        self.wrong: list[str] = []

    def add(self, actual: Objects, expected: Objects, candidates: Callable[[], Objects] | None = None) -> None:
        """Add the objects of N images.

        Args:
            actual: The program's `boxes` (N, K, 4), `scores` (N, K), 0 in unused rows, `labels` (N, K) and perhaps
                `masks` (N, K, H, W).
            expected: The module's.
            candidates: Returns the module's objects before non-maximum suppression, likewise; only called if objects
                differ. Without it, objects of equal scores are compared like all others.
        """
        shapes = [{name: tuple(value.shape) for name, value in each.items()} for each in (actual, expected)]
        if shapes[0] != shapes[1]:
            self.wrong.append(f"its outputs have the shapes {shapes[0]} instead of {shapes[1]}")
            return
        scale = max(1.0, float(expected["boxes"].abs().max()))
        for i in range(len(expected["scores"])):
            first, second = ({name: value[i][each["scores"][i] != 0] for name, value in each.items()}
                             for each in (actual, expected))  # fmt: skip
            distances = [_nearest(first, second, scale), _nearest(second, first, scale)]
            unequal = [distance > _TOLERANCE for distance in distances]
            if candidates is not None and all(each.any() for each in unequal):
                whole = candidates()
                pool = {name: whole[name][i][whole["scores"][i] != 0] for name in BOX_ENTRIES}
                _exchange_ties(distances, unequal, (first, second), _nearest(first, pool, scale))
            self.distances += distances

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


def _nearest(objects: Objects, others: Objects, scale: float) -> Tensor:
    """Return the difference (n,) between each object and the most similar one of the others; at least 1 without any."""
    if not len(others["scores"]):
        return torch.ones(len(objects["scores"]))
    boxes = (objects["boxes"][:, None] - others["boxes"]).abs().amax(2) / scale
    scores = (objects["scores"][:, None] - others["scores"]).abs()
    classes = (objects["labels"][:, None] != others["labels"]).float()
    distance, index = torch.stack([boxes, scores, classes]).amax(0).min(1)
    if MASKS in objects and MASKS in others:
        masks, other_masks = objects[MASKS].bool(), others[MASKS][index].bool()
        different, joined = (masks ^ other_masks).sum((1, 2)), (masks | other_masks).sum((1, 2))
        distance = torch.where(different <= (_BORDERLINE * joined).clamp_min(1), distance, 1.0)
    return distance


def _exchange_ties(
    distances: list[Tensor], unequal: list[Tensor], objects: tuple[Objects, Objects], to_candidates: Tensor
) -> None:
    """Lower the differences of pairs of unequal objects with equal scores to that from a candidate of the module.

    Args:
        distances: Differences of the program's and the module's objects, changed in place.
        unequal: Which objects have no equal one.
        objects: The objects of the program and the module.
        to_candidates: Differences of the program's objects from the module's candidates.
    """
    remaining = unequal[1].nonzero()[:, 0].tolist()
    for k in (unequal[0] & (to_candidates <= _TOLERANCE)).nonzero()[:, 0].tolist():
        score = objects[0]["scores"][k]
        if (partner := next((m for m in remaining if abs(objects[1]["scores"][m] - score) <= _TIE), None)) is not None:
            remaining.remove(partner)
            distances[0][k] = distances[1][partner] = to_candidates[k]
