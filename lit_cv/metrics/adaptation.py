"""Metrics of a classifier's predictions in the target domain over an epoch."""

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["AnswerInformation", "PseudoLabelQuality"]


class AnswerInformation(Metric):
    """Confidence of a classifier's predictions, and their balance over the classes, without labels.

    `target_entropy` is the mean entropy of the predictions, and `target_diversity` the entropy of the mean prediction,
    both divided by log K. Diversity minus entropy is the mutual information of predictions and images, which
    adaptation should increase (Shi and Sha 2012): 1 for confident predictions that are balanced over the classes, 0
    for random or collapsed predictions. `target_balance` is 1 minus the Kullback-Leibler divergence of the mean
    prediction from the class shares that are expected, divided by log K: 1 if the classes are as frequent as expected,
    lower where classes are lost or merged. With equal shares it is the diversity.

    Args:
        num_classes: Number of classes K.
        shares: Expected share of each class, (K,); `None` for equal shares. Classes without any count as the rarest.

    Example:
        >>> metric = AnswerInformation(2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
        {'target_entropy': 0.5, 'target_diversity': 0.811, 'target_balance': 0.811}
    """

    total: Tensor
    entropy: Tensor
    count: Tensor
    shares: Tensor

    def __init__(self, num_classes: int, shares: Tensor | None = None) -> None:
        super().__init__()
        shares = torch.ones(num_classes) if shares is None else shares.double()
        shares = torch.where(shares > 0, shares, shares[shares > 0].min())
        self.register_buffer("shares", (shares / shares.sum()).double(), persistent=False)
        self.add_state("total", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("entropy", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor) -> None:
        """Add predicted probabilities (N, K)."""
        p = probabilities.detach().double()
        self.total += p.sum(0)
        self.entropy += torch.special.entr(p).sum()
        self.count += len(p)

    def compute(self) -> dict[str, Tensor]:
        """Return the three values, NaN without any predictions."""
        maximum = torch.log(self.total.new_tensor(len(self.total)))
        mean = self.total / self.count
        diversity = torch.special.entr(mean).sum()
        divergence = -diversity - (mean * self.shares.to(mean).log()).sum()
        return {
            "target_entropy": (self.entropy / self.count / maximum).float(),
            "target_diversity": (diversity / maximum).float(),
            "target_balance": (1 - divergence / maximum).float(),
        }


class PseudoLabelQuality(Metric):
    """Fraction of images with a pseudo-label, and the precision of the pseudo-labels, NaN if there are none."""

    kept: Tensor
    right: Tensor
    count: Tensor
    known: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("kept", "right", "known", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, labels: Tensor, mask: Tensor, target: Tensor) -> None:
        """Add pseudo-labels (N,), the mask (N,) of those used, and the ground truth (N,), -1 if unknown."""
        known = mask & (target >= 0)
        self.kept += mask.sum()
        self.known += known.sum()
        self.right += (known & (labels == target)).sum()
        self.count += len(mask)

    def compute(self) -> dict[str, Tensor]:
        """Return coverage and precision."""
        return {
            "pseudo_coverage": (self.kept / self.count).float(),
            "pseudo_precision": (self.right / self.known).float(),
        }
