"""The coefficient of determination (R2) with unknown values."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["KnownR2Score"]


class KnownR2Score(Metric):
    """The mean over all outputs of R2, the coefficient of determination, computed from the known values.

    The state is sums over batches and ranks, not the values. Outputs with fewer than two known values, or without
    variance, are excluded.

    Args:
        num_outputs: Number of outputs D.
        **kwargs: Arguments of `torchmetrics.Metric`.

    Example:
        >>> metric = KnownR2Score(1)
        >>> metric.update(torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([[1.0], [3.0], [torch.nan]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    sums: Tensor

    def __init__(self, num_outputs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Count, sum, sum of squares, and sum of squared errors of each output.
        self.add_state("sums", torch.zeros(4, num_outputs, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch of predictions and targets, both (M, D), NaN if unknown."""
        known = ~target.isnan()
        true = torch.where(known, target, 0.0).double()
        error = torch.where(known, prediction - target, 0.0).double()
        self.sums += torch.stack([known.double(), true, true.square(), error.square()]).sum(1)

    def compute(self) -> Tensor:
        """Return the mean over the outputs, NaN if all are excluded."""
        count, total, squares, errors = self.sums
        spread = squares - total.square() / count
        valid = (count > 1) & (spread > 1e-12 * squares)
        score: Tensor = (1 - errors / spread)[valid].mean().float()
        return score
