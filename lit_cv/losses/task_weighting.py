"""Weighted sum of the losses of several tasks: the base class, and fixed weights."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_cv.errors import OptionError

__all__ = ["FixedWeighting", "TaskWeighting"]


class TaskWeighting(nn.Module, ABC):
    """Base of the weighted sums of the losses of several tasks.

    Its state (learned weights, losses of earlier epochs) is in parameters and buffers, so checkpoints contain it.

    Args:
        tasks: Names of the tasks.

    Raises:
        ValueError: If there is no task, or a duplicate name.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        if not tasks or len(set(tasks)) != len(tasks):
            raise OptionError(self, "tasks", list(tasks), "must be one or more names, each once")
        self.tasks = tuple(tasks)

    @abstractmethod
    def weights(self) -> Tensor:
        """Return the current factors (K,) of the losses, in the order of `tasks`."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum, a scalar in at least float32.

        Args:
            losses: Scalars by task. Tasks without a label in the batch are missing and do not contribute.

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
        """Return the tasks whose first loss `start` still needs; none by default."""
        return []

    def start(self, losses: Mapping[str, Tensor]) -> None:
        """Initialize the state from the first losses of some tasks; does nothing by default."""

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Update the state with the mean training losses of an epoch; does nothing by default."""

    def check(self, losses: Mapping[str, object]) -> None:
        """Raise ValueError for an unknown task."""
        if unknown := set(losses) - set(self.tasks):
            raise ValueError(f"{', '.join(sorted(unknown))}: no such task; the tasks are {', '.join(self.tasks)}.")


class FixedWeighting(TaskWeighting):
    """Constant weights: equal weights (the plain sum of the losses), or user-defined ones.

    Args:
        tasks: Names of the tasks.
        weights: A nonnegative weight for each task; `None` for 1 each.

    Raises:
        ValueError: If a weight is missing or out of range, or belongs to no task.

    Example:
        >>> weighting = FixedWeighting(["shape", "depth"], {"shape": 1.0, "depth": 0.1})
        >>> weighting({"shape": torch.tensor(2.0), "depth": torch.tensor(30.0)})
        tensor(5.)
    """

    factors: Tensor

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
        super().__init__(tasks)
        by_task = dict.fromkeys(tasks, 1.0) if weights is None else dict(weights)
        if set(by_task) != set(tasks):
            raise ValueError(f"weights for {', '.join(by_task) or 'no task'}, but the tasks are {', '.join(tasks)}.")
        for name, weight in by_task.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight}: give a finite number of at least 0.")
        self.register_buffer("factors", torch.tensor([float(by_task[name]) for name in tasks]), persistent=False)

    def weights(self) -> Tensor:
        """Return the weights (K,)."""
        return self.factors


def at_least_float32(value: Tensor) -> Tensor:
    """Return float64 tensors unchanged, and others as float32."""
    return value if value.dtype == torch.float64 else value.float()
