"""Losses weighted by learned uncertainties."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_cv.losses.task_weighting import TaskWeighting, at_least_float32

__all__ = ["UncertaintyWeighting"]

_BOUND = 7.0  # of log sigma: a loss that reaches 0 would drive its weight to infinity


class UncertaintyWeighting(TaskWeighting):
    r"""Weighs each task by the noise that it is seen to have (Kendall, Gal and Cipolla 2018, equations 7 and 10).

    The total is the sum over the tasks of :math:`L_i / (2 \sigma_i^2) + \log \sigma_i`, which is the negative log
    likelihood of a Gaussian of variance :math:`\sigma_i^2` if :math:`L_i` is a mean squared error. For a
    cross-entropy the paper arrives at :math:`L_i / \sigma_i^2 + \log \sigma_i`, a softmax of temperature
    :math:`\sigma_i^2`, approximately. The parameters are :math:`\log \sigma_i`, so that no sigma can turn negative.
    For a constant loss the optimum is :math:`\sigma_i^2 = L_i`, or :math:`2 L_i` for a cross-entropy: in either
    case the weighted loss is 1/2, whatever its scale, and the total, a log likelihood, may well be negative.

    The logarithms want a parameter group of their own, with a learning rate of about 0.02 under Adam and no weight
    decay: at that of a network they come too late.

    A negative loss has no optimum in the formula. Sigma learns from the magnitude of the loss, which for a positive
    loss is the same and for a negative one balances its scale, too. It is kept in [exp(-7), exp(7)].

    The sigmas begin at 1. Where losses are large their first gradients are, too, after which Adam takes hundreds of
    steps to get going; `start` puts them at the optimum of the first losses instead.

    Args:
        tasks: Names of the tasks.
        classification: Those whose loss is a cross-entropy.

    Attributes:
        log_sigma: (K,), the parameters, 0 at the start.

    Example:
        >>> weighting = UncertaintyWeighting(["depth", "shape"], classification=["shape"])
        >>> weighting({"depth": torch.tensor(4.0), "shape": torch.tensor(4.0)}).detach().item()
        6.0
    """

    form: Tensor
    started: Tensor

    def __init__(self, tasks: Sequence[str], classification: Collection[str] = ()) -> None:
        super().__init__(tasks)
        self.check(dict.fromkeys(classification))
        form = torch.tensor([1.0 if name in classification else 0.5 for name in tasks])
        self.register_buffer("form", form, persistent=False)
        self.register_buffer("started", torch.zeros(len(tasks), dtype=torch.bool))
        self._all_started = False  # spares a look at the device
        self.log_sigma = nn.Parameter(torch.zeros(len(tasks)))

    def sigma(self) -> Tensor:
        """Return the standard deviations (K,) of the tasks."""
        return self.log_sigma.exp()

    def weights(self) -> Tensor:
        """Return what the losses are multiplied by, (K,)."""
        return self.form * torch.exp(-2 * self.log_sigma)

    def waiting(self) -> list[str]:
        """Return the tasks that `start` has not been told of."""
        if self._all_started:
            return []
        waiting = [name for name, started in zip(self.tasks, self.started.tolist(), strict=True) if not started]
        self._all_started = not waiting
        return waiting

    @torch.no_grad()
    def start(self, losses: Mapping[str, Tensor]) -> None:
        """Put the sigmas of some tasks at the optimum of these losses: each weighted loss is 1/2 then.

        Args:
            losses: Scalars by task, the same on all processes that train together. One of 0 or that is not finite
                leaves its sigma as it is.
        """
        self.check(losses)
        for index, name in enumerate(self.tasks):
            if name in losses:
                best = (2 * self.form[index] * losses[name].to(self.form).abs()).log() / 2
                usable = best.isfinite()
                self.log_sigma[index] = torch.where(usable, best.clamp(-_BOUND, _BOUND), self.log_sigma[index])
                self.started[index] = True

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the total, a scalar in float32 or better.

        Args:
            losses: Scalars by task. A task that is left out takes no part: its sigma gets no gradient either.
        """
        self.check(losses)
        if self.training:
            with torch.no_grad():
                self.log_sigma.clamp_(-_BOUND, _BOUND)
        weights, log_sigma = self.weights(), at_least_float32(self.log_sigma)
        total = log_sigma[:0].sum()  # a part of the graph even of no task at all
        for index, name in enumerate(self.tasks):
            if name in losses:
                loss, weight = at_least_float32(losses[name]), weights[index]
                # Sigma sees the magnitude of the loss; the value is that of the formula.
                learned = (weight - weight.detach()) * loss.detach().abs()
                total = total + loss * weight.detach() + learned + log_sigma[index]
        return total
