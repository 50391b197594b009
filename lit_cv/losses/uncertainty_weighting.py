"""Losses weighted by learned uncertainties."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_cv.losses.task_weighting import TaskWeighting, at_least_float32

__all__ = ["UncertaintyWeighting"]

_BOUND = 7.0  # bound of log sigma: a loss near 0 would drive its weight to infinity


class UncertaintyWeighting(TaskWeighting):
    r"""Learned weights based on the uncertainty of each task (Kendall, Gal and Cipolla 2018, equations 7 and 10).

    The total is the sum over the tasks of :math:`L_i / (2 \sigma_i^2) + \log \sigma_i`, the negative log likelihood of
    a Gaussian with variance :math:`\sigma_i^2` if :math:`L_i` is a mean squared error. For a cross-entropy, the paper
    derives :math:`L_i / \sigma_i^2 + \log \sigma_i`, approximately a softmax with temperature :math:`\sigma_i^2`. The
    parameters are :math:`\log \sigma_i`, so that every sigma is positive. For a constant loss, the optimum is
    :math:`\sigma_i^2 = L_i`, or :math:`2 L_i` for a cross-entropy. In either case, the weighted loss is 1/2 regardless
    of its scale, and the total, a negative log likelihood, may be negative.

    Put the parameters into a separate parameter group, with a learning rate of about 0.02 with Adam and no weight
    decay: at the learning rate of a network, they change too slowly.

    For a negative loss, the formula has no optimum. Sigma is therefore trained on the magnitude of the loss, which
    makes no difference for a positive loss and balances the scale of a negative one. It is clipped to
    [exp(-7), exp(7)].

    Every sigma is initially 1. Large losses then have large first gradients, after which Adam needs hundreds of steps
    to recover. `start` sets the sigmas to the optimum of the first losses instead.

    Args:
        tasks: Names of the tasks.
        classification: Names of the tasks whose loss is a cross-entropy.

    Attributes:
        log_sigma: (K,), the parameters, initially 0.

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
        self._all_started = False  # avoids reading `started` from the device
        self.log_sigma = nn.Parameter(torch.zeros(len(tasks)))

    def sigma(self) -> Tensor:
        """Return the standard deviations (K,) of the tasks."""
        return self.log_sigma.exp()

    def weights(self) -> Tensor:
        """Return the factors (K,) of the losses."""
        return self.form * torch.exp(-2 * self.log_sigma)

    def waiting(self) -> list[str]:
        """Return the tasks that `start` has not initialized."""
        if self._all_started:
            return []
        waiting = [name for name, started in zip(self.tasks, self.started.tolist(), strict=True) if not started]
        self._all_started = not waiting
        return waiting

    @torch.no_grad()
    def start(self, losses: Mapping[str, Tensor]) -> None:
        """Set the sigmas of some tasks to the optimum of these losses, where each weighted loss is 1/2.

        Args:
            losses: Scalars by task, the same on all ranks. A loss that is 0 or not finite does not change its sigma.
        """
        self.check(losses)
        for index, name in enumerate(self.tasks):
            if name in losses:
                best = (2 * self.form[index] * losses[name].to(self.form).abs()).log() / 2
                usable = best.isfinite()
                self.log_sigma[index] = torch.where(usable, best.clamp(-_BOUND, _BOUND), self.log_sigma[index])
                self.started[index] = True

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the total, a scalar in at least float32.

        Args:
            losses: Scalars by task. A missing task does not contribute, and its sigma gets no gradient.
        """
        self.check(losses)
        if self.training:
            with torch.no_grad():
                self.log_sigma.clamp_(-_BOUND, _BOUND)
        weights, log_sigma = self.weights(), at_least_float32(self.log_sigma)
        total = log_sigma[:0].sum()  # 0, but part of the graph even without any task
        for index, name in enumerate(self.tasks):
            if name in losses:
                loss, weight = at_least_float32(losses[name]), weights[index]
                # The gradient of sigma uses the magnitude of the loss; the value is that of the formula.
                sigma_term = (weight - weight.detach()) * loss.detach().abs()
                total = total + loss * weight.detach() + sigma_term + log_sigma[index]
        return total
