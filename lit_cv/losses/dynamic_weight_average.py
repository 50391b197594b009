"""Losses weighted by how fast they fell of late."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_cv.errors import OptionError
from lit_cv.losses.task_weighting import TaskWeighting

__all__ = ["DynamicWeightAverage"]

_GREATEST = 10.0  # ratio of two epochs' losses beyond which a task is not helped further


class DynamicWeightAverage(TaskWeighting):
    r"""Gives more weight to the tasks whose losses fall more slowly (Liu, Johns and Davison 2019, section 3.3).

    In epoch t the weight of task k of K is :math:`K \, \mathrm{softmax}_k(r_k / T)` with
    :math:`r_k = L_k(t-1) / L_k(t-2)`, the ratio of its mean losses in the two epochs before; it is 1 in the first two
    epochs. The ratio is computed as 1 less the relative fall, (L(t-2) - L(t-1)) / abs(L(t-2)), which is the same for a
    positive loss and tells progress of a negative one, too, and is kept in [0, 10], for a loss near 0 may multiply.

    Args:
        tasks: Names of the tasks.
        temperature: T; the higher, the more equal the weights. The paper takes 2.

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
            raise OptionError(self, "temperature", temperature, "give a positive number")
        self.temperature = temperature
        self.register_buffer("history", torch.full((2, len(tasks)), torch.nan))  # the last two epochs, NaN unknown
        self.register_buffer("factors", torch.ones(len(tasks)))

    def weights(self) -> Tensor:
        """Return the weights (K,) of this epoch; they sum to K."""
        return self.factors

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Take in the mean losses of an epoch of training, and settle the weights of the next.

        Args:
            losses: By task. Those of a task that is left out, or not finite, stay as they were.
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
