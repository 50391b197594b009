"""Weights of classes in a loss."""

import logging
from typing import Any, Literal

import torch
from torch import Tensor

from lit_cv.contracts import as_data, as_dataset
from lit_cv.distributed import process_rank
from lit_cv.errors import OptionError

__all__ = ["class_weights"]

log = logging.getLogger("lit_cv")


def class_weights(
    given: Literal["balanced"] | list[float], num_classes: int, multi_label: bool, datamodule: Any, name: str
) -> Tensor:
    """Return the weights (K,) of the classes in a loss.

    Args:
        given: The weights, or `balanced` for those inverse to the classes' frequency among the training labels, with a
            mean of 1 over those that occur; with several labels an image, negatives per positive.
        num_classes: Number of classes K.
        multi_label: Whether an image may have several labels.
        datamodule: Counts the training labels, by `class_counts`.
        name: Name of the argument, for messages.

    Raises:
        ValueError: If the weights are not K, or the labels are not counted.
    """
    weight = (
        torch.tensor(given, dtype=torch.float32) if given != "balanced" else _balanced(datamodule, multi_label, name)
    )
    if weight.shape != (num_classes,):
        raise OptionError(
            None, name, given, f"it has {weight.numel()} numbers for {num_classes} classes; give one for each"
        )
    return weight


def _balanced(datamodule: Any, multi_label: bool, name: str) -> Tensor:
    class_counts = as_data(datamodule).class_counts
    if class_counts is None:
        raise OptionError(None, name, "balanced", "it needs a DataModule that counts its labels (class_counts)")
    counts = class_counts().float()
    if (counts == 0).any() and process_rank() == 0:
        log.info("%s: classes without a training label get the weight 0.", name)
    if multi_label:
        labels = as_dataset(datamodule.train_dataset).labels
        known = len(datamodule.train_dataset) if labels is None else (labels >= 0).sum(0)
        return torch.where(counts > 0, (known - counts) / counts, 0.0)
    weight = torch.where(counts > 0, 1 / counts, 0.0)
    return weight / weight.sum() * (counts > 0).sum()
