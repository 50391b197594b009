"""Losses weighted by how fast they fell in the last two epochs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_cv.errors import OptionError
from lit_cv.losses.task_weighting import TaskWeighting

__all__ = ["DynamicWeightAverage"]

_GREATEST = 10.0  # upper limit of the ratio of two epochs' losses


class DynamicWeightAverage(TaskWeighting):
    r"""Dynamic weight average, with larger weights for losses that fall more slowly (Liu et al. 2019, section 3.3).

    In epoch t, the weight of task k of K is :math:`K \, \mathrm{softmax}_k(r_k / T)`, where
    :math:`r_k = L_k(t-1) / L_k(t-2)` is the ratio of its mean losses in the previous two epochs, and 1 in the first two
    epochs. The ratio is computed as 1 - (L(t-2) - L(t-1)) / abs(L(t-2)). This is the same for a positive loss and also
    measures progress of a negative one. It is clipped to [0, 10], since a loss near 0 may grow many times over.

    Args:
        tasks: Names of the tasks.
        temperature: T; higher values make the weights more equal. The paper uses 2.

    Raises:
        ValueError: If the temperature is not positive.

    Example:
        >>> weighting = DynamicWeightAverage(["a", "b"])
        >>> for losses in ({"a": 1.0, "b": 1.0}, {"a": 0.2, "b": 1.0}):
        ...     weighting.end_epoch(losses)
        >>> weighting.weights()
        tensor([0.8026, 1.1974])
    """

    history: Tensor
    factors: Tensor

    def __init__(self, tasks: Sequence[str], temperature: float = 2.0) -> None:
        super().__init__(tasks)
        if not temperature > 0:
            raise OptionError(self, "temperature", temperature, "must be a positive number")
        self.temperature = temperature
        self.register_buffer(
            "history", torch.full((2, len(tasks)), torch.nan)
        )  # losses of the last two epochs, NaN if unknown
        self.register_buffer("factors", torch.ones(len(tasks)))

    def weights(self) -> Tensor:
        """Return the weights (K,) of this epoch; they sum to K."""
        return self.factors

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Compute the weights of the next epoch from the mean training losses of the last one.

        Args:
            losses: Losses by task. If the loss of a task is missing or not finite, its previous loss is used.
        """
        self.check(losses)
        newest = self.history[1].clone()
        for index, name in enumerate(self.tasks):
            value = torch.tensor(float(losses.get(name, torch.nan)))
            if value.isfinite():
                newest[index] = value
        self.history = torch.stack([self.history[1], newest])
        before, last = self.history.double()
        ratio = (1 - (before - last) / before.abs().clamp_min(torch.finfo(torch.float32).tiny)).clamp(0, _GREATEST)
        ratio = torch.where(ratio.isfinite(), ratio, 1.0)
        self.factors = (len(self.tasks) * torch.softmax(ratio / self.temperature, 0)).to(self.factors.dtype)
