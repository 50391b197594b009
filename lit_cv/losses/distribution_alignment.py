"""Predictions whose class shares are those that are expected. Pure torch."""

import torch
from torch import Tensor, nn

__all__ = ["DistributionAlignment"]

_TINY = 1e-6


class DistributionAlignment(nn.Module):
    """Scales class probabilities so that their mean over time is an expected distribution.

    Each probability is multiplied by the expected share of its class and divided by a moving average of what the
    network predicts, and the results are normalized again, as in ReMixMatch (Berthelot et al. 2020, section 3.1).

    Args:
        expected: (K,) expected share of each class.
        decay: Share of the moving average that stays at each step.

    Example:
        >>> alignment = DistributionAlignment(torch.tensor([0.5, 0.5]), decay=0.0)
        >>> probabilities = torch.tensor([[0.8, 0.2], [0.6, 0.4]])
        >>> alignment.update(probabilities)
        >>> alignment(probabilities).round(decimals=3)
        tensor([[0.6320, 0.3680],
                [0.3910, 0.6090]])
    """

    expected: Tensor
    predicted: Tensor

    def __init__(self, expected: Tensor, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("expected", expected.float())
        self.register_buffer("predicted", expected.float().clone())

    @torch.no_grad()
    def update(self, probabilities: Tensor) -> None:
        """Take in the predictions (N, K) for a batch of unlabeled images, those of all ranks."""
        self.predicted.lerp_(probabilities.mean(0), 1 - self.decay)

    @torch.no_grad()
    def forward(self, probabilities: Tensor) -> Tensor:
        """Return aligned probabilities (N, K)."""
        scaled = probabilities * (self.expected + _TINY) / (self.predicted + _TINY)
        return scaled / scaled.sum(1, keepdim=True)
