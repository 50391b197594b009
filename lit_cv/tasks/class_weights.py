"""Weights of classes in a loss."""

import logging
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lit_cv.contracts import as_data, as_dataset
from lit_cv.distributed import global_rank
from lit_cv.errors import OptionError, setting

__all__ = ["ClassWeight", "class_weights", "object_weights", "pixel_weights"]

log = logging.getLogger("lit_cv")

ClassWeight = Literal["balanced"] | list[float]
"""Weights of classes as an option has them: a number for each, or `balanced`."""


def class_weights(given: ClassWeight, num_classes: int, multi_label: bool, datamodule: Any, name: str) -> Tensor:
    """Return the weights (K,) of the classes of images in a loss.

    Args:
        given: The weights, or `balanced` for those inverse to the classes' frequency among the training labels, with a
            mean of 1 over those that occur; with several labels an image, negatives per positive.
        num_classes: Number of classes K.
        multi_label: Whether an image may have several labels.
        datamodule: Counts the training labels, by `class_counts`.
        name: Name of the argument, for messages.

    Raises:
        ValueError: If the weights are not K, or none is positive, or the labels are not counted.
    """
    if given != "balanced":
        return _listed(given, num_classes, name)
    counts = _counted(as_data(datamodule).class_counts, "labels (class_counts)", num_classes, name)
    if (balance := getattr(datamodule, "balance", 0.0)) and global_rank() == 0:
        drawn = setting("balance", balance, datamodule)
        log.warning("%s: rare classes are weighed more and drawn more often, too (%s).", name, drawn)
    if multi_label:
        labels = as_dataset(datamodule.train_dataset).labels
        known = len(datamodule.train_dataset) if labels is None else (labels >= 0).sum(0)
        return torch.where(counts > 0, (known - counts) / counts, 0.0)
    return _inverse(counts)


def pixel_weights(given: ClassWeight, num_classes: int, datamodule: Any, name: str) -> Tensor:
    """Return the weights (K,) of the classes of pixels, see `class_weights`; the DataModule has `pixel_counts`."""
    if given != "balanced":
        return _listed(given, num_classes, name)
    return _inverse(_counted(as_data(datamodule).pixel_counts, "pixels (pixel_counts)", num_classes, name))


def object_weights(given: ClassWeight, num_classes: int, datamodule: Any, name: str) -> Tensor:
    """Return the weights (K,) of the classes of objects, see `class_weights`; the DataModule has `object_counts`.

    Balanced ones have a mean of 1 over the objects: rare classes weigh more than others, but objects as a whole not
    less than the background.
    """
    if given != "balanced":
        return _listed(given, num_classes, name)
    counts = _counted(as_data(datamodule).object_counts, "objects (object_counts)", num_classes, name)
    weight = _inverse(counts)
    return weight * counts.sum() / (weight * counts).sum().clamp_min(1)


def _listed(given: list[float], num_classes: int, name: str) -> Tensor:
    if len(given) != num_classes:
        raise OptionError(
            None, name, given, f"it has {len(given)} numbers for {num_classes} classes; give one for each"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in given) or not any(given):
        raise OptionError(None, name, given, "give numbers from 0 on, and one that is greater")
    return torch.tensor(given, dtype=torch.float32)


def _counted(count: Callable[[], Tensor] | None, what: str, num_classes: int, name: str) -> Tensor:
    if count is None:
        raise OptionError(None, name, "balanced", f"it needs a DataModule that counts its {what}")
    counts = count().float()
    if counts.shape != (num_classes,):
        allowed = f"the data count {counts.numel()} classes, but the model has {num_classes}; give a list of weights"
        raise OptionError(None, name, "balanced", allowed)
    if (counts == 0).any() and global_rank() == 0:
        log.info("%s: classes that no training target has get the weight 0.", name)
    return counts


def _inverse(counts: Tensor) -> Tensor:
    """Return weights inverse to counts, with a mean of 1 over the classes that occur."""
    weight = torch.where(counts > 0, 1 / counts, 0.0)
    return weight / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny) * (counts > 0).sum()
