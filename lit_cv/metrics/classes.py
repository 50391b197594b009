"""Class-wise metrics with memory linear in the number of classes."""

from abc import ABC
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["ClassAccuracy", "MacroF1"]


class _ClassCounts(Metric, ABC):
    """Counts of actual, predicted and correctly predicted images for each class.

    torchmetrics' macro averages compute a full confusion matrix of every batch: 800 MB for 10,000 classes.

    Args:
        num_classes: Number of classes K.
        **kwargs: Arguments of `torchmetrics.Metric`.
    """

    actual: Tensor
    predicted: Tensor
    right: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("actual", "predicted", "right"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (N, K) scores.
            target: (N,) int64; images with a negative target do not count.
        """
        known = (target >= 0).long()
        target, prediction = target.clamp_min(0), logits.argmax(1)
        self.actual.index_add_(0, target, known)
        self.predicted.index_add_(0, prediction, known)
        self.right.index_add_(0, target, known * (prediction == target))


class MacroF1(_ClassCounts):
    """The mean F1 score of the classes that occur in the ground truth or the predictions.

    Example:
        >>> metric = MacroF1(3)
        >>> metric.update(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor(0.6667)
    """

    def compute(self) -> Tensor:
        """Return the score, 0 without any images."""
        total = self.actual + self.predicted
        scores = 2 * self.right / total.clamp_min(1)
        return scores.sum() / (total > 0).sum().clamp_min(1)


class ClassAccuracy(_ClassCounts):
    """The accuracy (recall) of each class, (K,), NaN for a class without images.

    Example:
        >>> metric = ClassAccuracy(3)
        >>> metric.update(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor([0.5000, 1.0000,    nan])
    """

    def compute(self) -> Tensor:
        """Return the accuracies."""
        return self.right / self.actual
