"""The mean accuracy of few-shot episodes and its confidence interval."""

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["EpisodeAccuracy"]


class EpisodeAccuracy(Metric):
    """The mean accuracy over the episodes of all ranks, with its 95 % confidence interval.

    `compute` returns `{name}_acc`, the mean, and `{name}_ci95`, the half width of the interval: 1.96 standard errors
    (with the unbiased variance), as reported in few-shot papers; NaN for a single episode.

    Args:
        name: Prefix of the names of the two values.

    Example:
        >>> metric = EpisodeAccuracy("5w1s")
        >>> metric.update(torch.tensor([0.5, 1.0]))
        >>> {name: round(float(value), 4) for name, value in metric.compute().items()}
        {'5w1s_acc': 0.75, '5w1s_ci95': 0.49}
    """

    full_state_update = False
    higher_is_better = True

    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        for state in ("total", "squares", "count"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, accuracies: Tensor) -> None:
        """Add the accuracies (B,) of episodes, in [0, 1]."""
        values = accuracies.double()
        self.total += values.sum()
        self.squares += values.square().sum()
        self.count += len(values)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean and the half width of its confidence interval."""
        mean = self.total / self.count
        variance = (self.squares - self.count * mean.square()).clamp_min(0) / (self.count - 1)
        interval = 1.96 * (variance / self.count).sqrt()
        return {f"{self.name}_acc": mean.float(), f"{self.name}_ci95": interval.float()}
