"""One loss out of those of several tasks: what every weighting has in common, and weights that stand still."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_cv.errors import OptionError

__all__ = ["FixedWeighting", "TaskWeighting"]


class TaskWeighting(nn.Module, ABC):
    """Adds up the losses of several tasks, each with a weight.

    Its state (learned weights, losses of earlier epochs) lies in parameters and buffers, hence in checkpoints.

    Args:
        tasks: Names of the tasks.

    Raises:
        ValueError: If there is no task, or a name comes twice.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        if not tasks or len(set(tasks)) != len(tasks):
            raise OptionError(self, "tasks", list(tasks), "give one or more names, each once")
        self.tasks = tuple(tasks)

    @abstractmethod
    def weights(self) -> Tensor:
        """Return the factors (K,) that the losses are multiplied by at present, in the order of `tasks`."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum, a scalar in float32 or better.

        Args:
            losses: Scalars by task. Tasks without a label in the batch are left out and take no part.

        Raises:
            ValueError: If a name is unknown.
        """
        self.check(losses)
        weights = self.weights().detach()
        total = weights.new_zeros(())
        for index, name in enumerate(self.tasks):
            if name in losses:
                total = total + weights[index] * at_least_float32(losses[name])
        return total

    def waiting(self) -> list[str]:
        """Return the tasks whose first loss `start` is to be told; here none."""
        return []

    def start(self, losses: Mapping[str, Tensor]) -> None:
        """Take in the first losses of some tasks; here nothing changes."""

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Take in the mean losses of an epoch of training; here nothing changes."""

    def check(self, losses: Mapping[str, object]) -> None:
        """Raise ValueError for the name of no task."""
        if unknown := set(losses) - set(self.tasks):
            raise ValueError(f"{', '.join(sorted(unknown))}: no such task; there are {', '.join(self.tasks)}.")


class FixedWeighting(TaskWeighting):
    """Weights that stand still: equal ones (the plain sum of the losses), or those that are given.

    Args:
        tasks: Names of the tasks.
        weights: A weight for each task, not negative; `None` for 1 each.

    Raises:
        ValueError: If a weight is missing, left over or out of range.

    Example:
        >>> weighting = FixedWeighting(["shape", "depth"], {"shape": 1.0, "depth": 0.1})
        >>> weighting({"shape": torch.tensor(2.0), "depth": torch.tensor(30.0)})
        tensor(5.)
    """

    factors: Tensor

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
        super().__init__(tasks)
        given = dict.fromkeys(tasks, 1.0) if weights is None else dict(weights)
        if set(given) != set(tasks):
            raise ValueError(f"weights for {', '.join(given) or 'no task'}, but the tasks are {', '.join(tasks)}.")
        for name, weight in given.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight}: give a finite number, 0 or greater.")
        self.register_buffer("factors", torch.tensor([float(given[name]) for name in tasks]), persistent=False)

    def weights(self) -> Tensor:
        """Return the weights (K,)."""
        return self.factors


def at_least_float32(value: Tensor) -> Tensor:
    """Return a tensor in its own precision, but no less than float32."""
    return value if value.dtype == torch.float64 else value.float()
