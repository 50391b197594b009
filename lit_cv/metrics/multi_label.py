"""Multi-label metrics with unknown labels."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAveragePrecision
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities.data import dim_zero_cat

from lit_cv.ignore_index import UNLABELED

__all__ = ["KnownAveragePrecision", "KnownF1"]


class KnownAveragePrecision(MultilabelAveragePrecision):
    """Mean average precision over the labels with at least one known positive, NaN if there are none.

    torchmetrics' metric raises an `IndexError` if a label is unknown in all images.

    Args:
        num_labels: Number of labels K.
        **kwargs: Arguments of `torchmetrics.Metric`.

    Example:
        >>> metric = KnownAveragePrecision(2)
        >>> metric.update(torch.tensor([[0.9, 0.2], [0.6, 0.8], [0.1, 0.5]]), torch.tensor([[0, -1], [1, -1], [0, -1]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, num_labels: int, **kwargs: Any) -> None:
        super().__init__(num_labels, ignore_index=UNLABELED, **kwargs)

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the mean."""
        scores, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        precisions = []
        for label in range(self.num_labels):
            known = target[:, label] >= 0
            if (target[known, label] == 1).any():
                precisions.append(binary_average_precision(scores[known, label], target[known, label]))
        return torch.stack(precisions).mean() if precisions else scores.new_full((), torch.nan)


class KnownF1(Metric):
    """The F1 score of each label (K,), NaN for a label that is unknown in all images, or the mean over the others.

    torchmetrics' metric counts a label that is unknown in all images as 0.

    Args:
        num_labels: Number of labels K.
        average: Whether `compute` returns the mean.

    Example:
        >>> metric = KnownF1(3)
        >>> metric.update(torch.tensor([[0.9, 0.2, 0.7], [0.6, 0.8, 0.1]]), torch.tensor([[1, 0, -1], [0, 1, -1]]))
        >>> metric.compute()
        tensor(0.8333)
    """

    counts: Tensor

    def __init__(self, num_labels: int, average: bool = True) -> None:
        super().__init__()
        self.average = average
        self.add_state("counts", torch.zeros(4, num_labels, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            probabilities: (N, K).
            target: (N, K), 0 or 1, negative if unknown.
        """
        known = target >= 0
        predicted, actual = (probabilities > 0.5) & known, target == 1
        self.counts += torch.stack([(predicted & actual).sum(0), predicted.sum(0), actual.sum(0), known.sum(0)])

    def compute(self) -> Tensor:
        """Return the scores, or their mean."""
        correct, predicted, actual, known = self.counts
        scores = torch.where(known > 0, 2 * correct / (predicted + actual).clamp_min(1), torch.nan)
        return scores.nanmean() if self.average else scores
