"""Class weights of losses."""

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
"""Class weights as an option: one number per class, or `balanced`."""


def class_weights(weights: ClassWeight, num_classes: int, multi_label: bool, datamodule: Any, name: str) -> Tensor:
    """Return the weights (K,) of image classes in a loss.

    Args:
        weights: The weights, or `balanced`: inverse to the frequency of the classes among the training labels, with a
            mean of 1 over those that occur; for several labels per image, the ratio of negatives to positives.
        num_classes: Number of classes K.
        multi_label: Whether an image may have several labels.
        datamodule: DataModule that counts the training labels by `class_counts`.
        name: Name of the argument, for messages.

    Raises:
        ValueError: If there are not K weights, none is positive, or the DataModule does not count labels.
    """
    if weights != "balanced":
        return _weights_tensor(weights, num_classes, name)
    counts = _counted(as_data(datamodule).class_counts, "labels (class_counts)", num_classes, name)
    if (balance := getattr(datamodule, "balance", 0.0)) and global_rank() == 0:
        sampling = setting("balance", balance, datamodule)
        log.warning("%s: rare classes get higher weights and are also sampled more often (%s).", name, sampling)
    if multi_label:
        labels = as_dataset(datamodule.train_dataset).labels
        labeled = len(datamodule.train_dataset) if labels is None else (labels >= 0).sum(0)
        return torch.where(counts > 0, (labeled - counts) / counts, 0.0)
    return _inverse(counts)


def pixel_weights(weights: ClassWeight, num_classes: int, datamodule: Any, name: str) -> Tensor:
    """Return the weights (K,) of pixel classes, see `class_weights`; the DataModule counts by `pixel_counts`."""
    if weights != "balanced":
        return _weights_tensor(weights, num_classes, name)
    return _inverse(_counted(as_data(datamodule).pixel_counts, "pixels (pixel_counts)", num_classes, name))


def object_weights(weights: ClassWeight, num_classes: int, datamodule: Any, name: str) -> Tensor:
    """Return the weights (K,) of object classes, see `class_weights`; the DataModule counts by `object_counts`.

    Balanced weights have a mean of 1 over the objects: rare classes get higher weights than others, but objects on
    average not less than the background.
    """
    if weights != "balanced":
        return _weights_tensor(weights, num_classes, name)
    counts = _counted(as_data(datamodule).object_counts, "objects (object_counts)", num_classes, name)
    weight = _inverse(counts)
    return weight * counts.sum() / (weight * counts).sum().clamp_min(1)


def _weights_tensor(weights: list[float], num_classes: int, name: str) -> Tensor:
    if len(weights) != num_classes:
        raise OptionError(
            None, name, weights, f"has {len(weights)} numbers for {num_classes} classes; use one number per class"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise OptionError(None, name, weights, "must not be negative, and at least one number must be positive")
    return torch.tensor(weights, dtype=torch.float32)


def _counted(count: Callable[[], Tensor] | None, what: str, num_classes: int, name: str) -> Tensor:
    if count is None:
        raise OptionError(None, name, "balanced", f"needs a DataModule that counts its {what}")
    counts = count().float()
    if counts.shape != (num_classes,):
        allowed = f"the data have {counts.numel()} classes, but the model has {num_classes}; use a list of weights"
        raise OptionError(None, name, "balanced", allowed)
    if (counts == 0).any() and global_rank() == 0:
        log.info("%s: classes without training targets get weight 0.", name)
    return counts


def _inverse(counts: Tensor) -> Tensor:
    """Return weights inverse to counts, with a mean of 1 over the classes that occur."""
    weight = torch.where(counts > 0, 1 / counts, 0.0)
    return weight / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny) * (counts > 0).sum()
