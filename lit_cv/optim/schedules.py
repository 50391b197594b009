"""Learning rate schedules that advance at every optimizer step.

Every schedule multiplies the base learning rate of each parameter group by a function of the step. The groups keep
their ratios, and resuming a run needs only the step.
"""

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_cv.errors import OptionError, VoidOptionError
from lit_cv.registry import Registry, resolve, subclass_problem
from lit_cv.signatures import build, parameters

__all__ = ["SCHEDULES", "Plateau", "StepSchedule", "build_schedule", "check_schedule"]

_LOGGER = logging.getLogger("lit_cv")
_Shape = Callable[[int], float]
_COURSE = ("progress", "end")  # allowed parameters of a schedule function


class StepSchedule(LRScheduler):
    """A schedule that sets the learning rate of each group to its base learning rate times a factor of the step.

    Only the step is saved. A run resumed with another learning rate, schedule or length therefore uses the new values
    from that step on.

    Args:
        optimizer: Optimizer whose groups have their base learning rates in `lr`.
        factor: Maps the step, counted from 0, to the factor.

    Example:
        >>> from torch import nn, optim
        >>> optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
        >>> StepSchedule(optimizer, lambda step: 1 / (step + 1)).get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: Optimizer, factor: _Shape) -> None:
        self.factor = factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group at the current step."""
        factor = self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def add_group(self, group: dict[str, Any]) -> None:
        """Add a parameter group to the optimizer, at the current step of the schedule.

        Args:
            group: The group, with its base learning rate in `lr`.
        """
        self.optimizer.add_param_group({**group, "initial_lr": group["lr"]})
        self.base_lrs.append(group["lr"])
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the step."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the saved step, but keep the base learning rates and the schedule of this run."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["initial_lr"] = base
        self._apply()

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _misfit(candidate: object) -> str | None:
    """Return a reason why a user-defined object is not a schedule, `None` if it is one."""
    if isinstance(candidate, type):
        return subclass_problem(candidate, StepSchedule)
    names = list(inspect.signature(candidate).parameters) if inspect.isfunction(candidate) else []
    if names[:1] == ["progress"] and set(names) <= set(_COURSE):
        return None
    return "neither a function of `progress` (and optionally `end`) nor a subclass of StepSchedule"


SCHEDULES: Registry[Callable[..., Any]] = Registry("schedule", StepSchedule, "lit_cv.optim", _misfit)
"""The schedules by name, of two kinds.

A function receives the `progress` after the warm-up, from 0 to 1, and returns the position of the learning rate
between `min_lr` (0) and `lr` (1). If it has a parameter `end`, which is `min_lr / lr`, it returns the factor of `lr`
instead. A subclass of `StepSchedule` receives the optimizer, and `total_steps`, `warmup_steps`, `min_factor` (equal to
`end`), `mode` and `patience` if it accepts them.
"""


@SCHEDULES.add("cosine")
def cosine(progress: float) -> float:
    """Return a cosine that falls from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.add("exponential")
def exponential(progress: float, end: float) -> float:
    """Return `end` to the power of the progress; an `end` of 0 is replaced by 0.001."""
    return float((end or 1e-3) ** progress)


@SCHEDULES.add("constant")
class _Constant(StepSchedule):
    """A constant learning rate after a linear warm-up."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 0) -> None:
        super().__init__(optimizer, lambda step: warm_up(step, warmup_steps))


@SCHEDULES.add("one_cycle")
class _OneCycle(StepSchedule):
    """A learning rate that rises along a cosine, then falls along another."""

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, min_factor: float = 0.0) -> None:
        super().__init__(optimizer, _one_cycle(total_steps, warmup_steps, min_factor))


@SCHEDULES.add("plateau")
class Plateau(StepSchedule):
    """A learning rate that is reduced when a metric stops improving, after a linear warm-up.

    Args:
        optimizer: Optimizer whose groups have their base learning rates in `lr`.
        warmup_steps: Steps of the warm-up.
        min_factor: Lower limit of the learning rate, as a fraction of the base learning rate.
        mode: Whether smaller (`min`) or larger (`max`) values of the metric are better.
        patience: Number of observations without improvement before the next one reduces the learning rate.
        reduction: Factor that the learning rate is multiplied by.
        threshold: Smallest relative change of the best value that counts as an improvement.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 0,
        min_factor: float = 0.0,
        mode: Literal["min", "max"] = "min",
        patience: int = 5,
        reduction: float = 0.1,
        threshold: float = 1e-4,
    ) -> None:
        if not 0 < reduction < 1:
            raise OptionError(self, "reduction", reduction, "must be a factor between 0 and 1")
        self.mode = mode
        self.patience = patience
        self.reduction = reduction
        self.threshold = threshold
        self.min_factor = min_factor
        self.best: float | None = None
        self.waited = 0
        self.level = 1.0
        super().__init__(optimizer, lambda step: self.level * warm_up(step, warmup_steps))

    def observe(self, metric: float) -> None:
        """Record the metric, once per validation. NaN and infinity do not count as improvements."""
        if self._improves(metric):
            self.best, self.waited = metric, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.level = max(self.level * self.reduction, self.min_factor)
            self.waited = 0
            self._apply()

    def _improves(self, metric: float) -> bool:
        if not math.isfinite(metric):
            return False
        if self.best is None or not math.isfinite(self.best):
            return True
        margin = self.threshold * abs(self.best)
        return metric < self.best - margin if self.mode == "min" else metric > self.best + margin

    def state_dict(self) -> dict[str, Any]:
        """Return the step, the best metric, the number of observations since, and the current reduction."""
        return super().state_dict() | {"best": self.best, "waited": self.waited, "level": self.level}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the saved state, but keep the base learning rates of this run."""
        self.best = state_dict.get("best")
        self.waited = state_dict.get("waited", 0)
        self.level = max(state_dict.get("level", 1.0), self.min_factor)
        super().load_state_dict(state_dict)


def check_schedule(name: str) -> None:
    """Raise ValueError, with the nearest valid names, unless there is a schedule with this name."""
    resolve(name, SCHEDULES, "schedule")


def build_schedule(
    name: str,
    optimizer: Optimizer,
    total_steps: float,
    warmup_steps: int = 0,
    min_lr: float = 0.0,
    mode: Literal["min", "max"] = "min",
    patience: int = 5,
) -> StepSchedule:
    """Build a schedule that `step()` advances after every optimizer step.

    With base learning rate lr, T steps including w warm-up steps, step t >= w and p = (t - w) / (T - 1 - w):

    - warm-up, t < w: lr (t + 1) / w
    - `cosine`: min_lr + (lr - min_lr) (1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017)
    - `exponential`: lr (min_lr / lr)^p; a `min_lr` of 0 is replaced by lr / 1000
    - `constant`: lr
    - `plateau`: lr, divided by 10 whenever the metric passed to `observe` stops improving
    - `one_cycle`: up from lr / 25 and down to `min_lr`, both along a cosine (Smith and Topin 2018, as in
      torch's OneCycleLR); w is the end of the rise, 30 % of T if it is 0

    The last step uses `min_lr`, and so do all steps after T. `min_lr` applies to the group with the largest base
    learning rate; the minima of the other groups are proportionally smaller.

    Args:
        name: One of the names above, or `file.name` for a user-defined schedule, see `SCHEDULES`.
        optimizer: Optimizer whose groups have their base learning rates in `lr`.
        total_steps: Optimizer steps of the complete training; infinity if it has no fixed end.
        warmup_steps: Steps of the linear warm-up, limited to `total_steps`.
        min_lr: Learning rate at the end.
        mode: Whether smaller or larger values of the metric of `plateau` are better.
        patience: Observations without improvement that `plateau` allows.

    Raises:
        ValueError: If the name is unknown, a value is out of range, or the schedule needs a finite `total_steps`.
    """
    kind = resolve(name, SCHEDULES, "schedule")
    warmup_steps = _check_lengths(name, kind, total_steps, warmup_steps)
    lr = max(float(group["lr"]) for group in optimizer.param_groups)
    if not 0 <= min_lr <= lr:
        raise VoidOptionError(None, "min_lr", min_lr, f"must be a learning rate between 0 and lr={lr}")
    end = min_lr / lr if lr else 0.0
    if not isinstance(kind, type):
        return StepSchedule(optimizer, _after_warm_up(kind, int(total_steps), warmup_steps, end))
    steps = {"total_steps": total_steps, "warmup_steps": warmup_steps}
    if math.isfinite(total_steps):
        steps["total_steps"] = int(total_steps)
    offered = {**steps, "min_factor": end, "mode": mode, "patience": patience}
    schedule: StepSchedule = build(kind, f"schedule {name!r}", offered=offered, positional=(optimizer,))
    return schedule


def _after_warm_up(course: Callable[..., float], total_steps: int, warmup_steps: int, end: float) -> _Shape:
    """Return a function from the step to the factor: the warm-up, then the course over the progress."""
    steps, takes_end = max(1, total_steps - 1 - warmup_steps), "end" in parameters(course)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return warm_up(step, warmup_steps)
        progress = min(1.0, (step - warmup_steps) / steps)
        return course(progress, end=end) if takes_end else between(course(progress), end)

    return factor


def between(fraction: float, end: float) -> float:
    """Interpolate linearly between `end` (0) and 1 (1)."""
    return end + (1 - end) * fraction


def _check_lengths(name: str, kind: Callable[..., Any], total_steps: float, warmup_steps: int) -> int:
    """Validate the lengths and return the number of warm-up steps, limited to `total_steps`."""
    if warmup_steps < 0 or total_steps < 1:
        raise ValueError(
            f"warmup_steps={warmup_steps}, total_steps={total_steps}: give a warm-up of at least 0 steps and a "
            "training of at least 1."
        )
    if math.isinf(total_steps) and (not isinstance(kind, type) or "total_steps" in parameters(kind)):
        raise ValueError(
            f"the schedule {name!r} needs the length of the training: set max_epochs or max_steps, or "
            "choose the schedule 'constant' or 'plateau'."
        )
    if warmup_steps > total_steps:
        _LOGGER.warning(
            "warm-up of %d steps shortened to the %d steps of the training: lower warmup_epochs.",
            warmup_steps,
            total_steps,
        )
        return int(total_steps)
    return warmup_steps


def warm_up(step: int, warmup_steps: int) -> float:
    """Return the factor of a step of a linear warm-up, and 1 after it."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def _one_cycle(total_steps: int, warmup_steps: int, end: float) -> _Shape:
    peak = (warmup_steps or 0.3 * total_steps) - 1
    last = total_steps - 1
    if last < 1 or peak <= 0:
        return _fall_only(max(1, last), end)

    def factor(step: int) -> float:
        if step <= peak:
            return 1 + (1 / 25 - 1) * (1 + math.cos(math.pi * step / peak)) / 2
        return between(cosine(min(1.0, (step - peak) / (last - peak)) if last > peak else 1.0), end)

    return factor


def _fall_only(steps: int, end: float) -> _Shape:
    """Return the factors of a cycle that is too short for a rise."""
    return lambda step: between(cosine(min(1.0, step / steps)), end)
