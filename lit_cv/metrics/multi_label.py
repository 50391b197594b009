"""Average precision of labels of which some are unknown."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MultilabelAveragePrecision
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities.data import dim_zero_cat

__all__ = ["KnownAveragePrecision"]


class KnownAveragePrecision(MultilabelAveragePrecision):
    """Mean average precision over the labels that any image is known to have, NaN where there is none.

    torchmetrics' own raises an `IndexError` once a label is unknown in all images.

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
        super().__init__(num_labels, ignore_index=-1, **kwargs)

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the mean."""
        scores, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        found = []
        for label in range(self.num_labels):
            known = target[:, label] >= 0
            if (target[known, label] == 1).any():
                found.append(binary_average_precision(scores[known, label], target[known, label]))
        return torch.stack(found).mean() if found else scores.new_full((), torch.nan)
