"""Learning-rate schedules that move at every optimizer step.

Every schedule is a function of the step alone, times the base rate of each parameter group. So the groups keep
their ratios, and a resumed run needs nothing but the number of its step.
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
_COURSE = ("progress", "end")  # parameters of a schedule that is a function


class StepSchedule(LRScheduler):
    """Sets the learning rate of each group to its base rate times a factor of the step.

    The state that is saved is the step alone. A run that is resumed with another learning rate, schedule or
    length therefore gets what it asks for, from the step on at which it goes on.

    Args:
        optimizer: Optimizer whose groups hold their base rates in `lr`.
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
        """Give the optimizer a further parameter group, which joins the course where it stands.

        Args:
            group: The group, with its base rate in `lr`.
        """
        self.optimizer.add_param_group({**group, "initial_lr": group["lr"]})
        self.base_lrs.append(group["lr"])
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the step."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step, with the base rates and the course of this run."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["initial_lr"] = base
        self._apply()

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _misfit(found: object) -> str | None:
    """Return what of the user's own is neither a `StepSchedule` nor a function of the progress."""
    if isinstance(found, type):
        return subclass_problem(found, StepSchedule)
    names = list(inspect.signature(found).parameters) if inspect.isfunction(found) else []
    if names[:1] == ["progress"] and set(names) <= set(_COURSE):
        return None
    return "neither a function of `progress` (and perhaps `end`) nor a subclass of StepSchedule"


SCHEDULES: Registry[Callable[..., Any]] = Registry("schedule", StepSchedule, "lit_cv.optim", _misfit)
"""The schedules by name, of two kinds.

A function of the `progress` after the warm-up, from 0 to 1, returns where between `min_lr` (0) and `lr` (1) the
learning rate is; one that has a parameter `end`, which is `min_lr / lr`, returns the factor of `lr` itself. A subclass
of `StepSchedule` takes the optimizer and what it accepts of `total_steps`, `warmup_steps`, `min_factor` (that same
end), `mode` and `patience`.
"""


@SCHEDULES.add("cosine")
def cosine(progress: float) -> float:
    """Return half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.add("exponential")
def exponential(progress: float, end: float) -> float:
    """Return `end` to the power of the progress; an end of 0 stands for a thousandth."""
    return float((end or 1e-3) ** progress)


@SCHEDULES.add("constant")
class _Constant(StepSchedule):
    """Keeps the learning rate after a linear warm-up."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 0) -> None:
        super().__init__(optimizer, lambda step: warm_up(step, warmup_steps))


@SCHEDULES.add("one_cycle")
class _OneCycle(StepSchedule):
    """Raises the learning rate along a cosine, and lowers it along another."""

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, min_factor: float = 0.0) -> None:
        super().__init__(optimizer, _one_cycle(total_steps, warmup_steps, min_factor))


@SCHEDULES.add("plateau")
class Plateau(StepSchedule):
    """Lowers the learning rate when a metric has not improved for a while, after a linear warm-up.

    Args:
        optimizer: Optimizer whose groups hold their base rates in `lr`.
        warmup_steps: Steps of the warm-up.
        min_factor: The rates are not lowered below this part of their base rates.
        mode: Whether the metric is better when smaller (`min`) or greater (`max`).
        patience: Observations without improvement that are waited for; the next one lowers the rate.
        reduction: What the rate is multiplied by.
        threshold: Improvement, relative to the best value, that counts.
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
            raise OptionError(self, "reduction", reduction, "give a factor between 0 and 1")
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
        """Take note of the metric, once per validation. NaN and infinity are no improvement."""
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
        """Return the step, the best metric, the observations since, and how far the rate has been lowered."""
        return super().state_dict() | {"best": self.best, "waited": self.waited, "level": self.level}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved state, with the base rates of this run."""
        self.best = state_dict.get("best")
        self.waited = state_dict.get("waited", 0)
        self.level = max(state_dict.get("level", 1.0), self.min_factor)
        super().load_state_dict(state_dict)


def check_schedule(name: str) -> None:
    """Raise ValueError, with the nearest valid names, unless there is a schedule of this name."""
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
    """Build a schedule that `step()` moves after every optimizer step.

    With base rate lr, T steps of which the first w warm up, step t >= w and p = (t - w) / (T - 1 - w):

    - warm-up, t < w: lr (t + 1) / w
    - `cosine`: min_lr + (lr - min_lr) (1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017)
    - `exponential`: lr (min_lr / lr)^p; a `min_lr` of 0 stands for lr / 1000
    - `constant`: lr
    - `plateau`: lr, lowered tenfold whenever the metric given to `observe` stalls
    - `one_cycle`: up from lr / 25 and down to `min_lr`, both along a cosine (Smith and Topin 2018, as in
      torch's OneCycleLR); w is the end of the rise, 30 % of T where it is 0

    So `min_lr` is reached at the last step. It belongs to the group with the largest base rate; the minimum of
    the others is smaller in proportion. After T the rate stays where it is.

    Args:
        name: One of the names above, or `file.name` for one of your own, see `SCHEDULES`.
        optimizer: Optimizer whose groups hold their base rates in `lr`.
        total_steps: Optimizer steps of the whole training; infinite for one without an end.
        warmup_steps: Steps of the linear warm-up; cut to `total_steps`.
        min_lr: Learning rate at the end.
        mode: Whether the metric of `plateau` is better when smaller or greater.
        patience: Observations that `plateau` waits for.

    Raises:
        ValueError: If the name is unknown, a value is out of range, or a schedule needs an end and has none.
    """
    kind = resolve(name, SCHEDULES, "schedule")
    warmup_steps = _check_lengths(name, kind, total_steps, warmup_steps)
    lr = max(float(group["lr"]) for group in optimizer.param_groups)
    if not 0 <= min_lr <= lr:
        raise VoidOptionError(None, "min_lr", min_lr, f"give a learning rate between 0 and lr={lr}")
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
    """Return the factor of a step: that of the warm-up, and then that of a function of the progress."""
    steps, takes_end = max(1, total_steps - 1 - warmup_steps), "end" in parameters(course)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return warm_up(step, warmup_steps)
        progress = min(1.0, (step - warmup_steps) / steps)
        return course(progress, end=end) if takes_end else between(course(progress), end)

    return factor


def between(share: float, end: float) -> float:
    """Return the factor that lies a share of the way from `end` to 1."""
    return end + (1 - end) * share


def _check_lengths(name: str, kind: Callable[..., Any], total_steps: float, warmup_steps: int) -> int:
    """Return the number of warm-up steps that fit."""
    if warmup_steps < 0 or total_steps < 1:
        raise ValueError(
            f"warmup_steps={warmup_steps}, total_steps={total_steps}: the warm-up must not be negative and "
            "there must be at least one step."
        )
    if math.isinf(total_steps) and (not isinstance(kind, type) or "total_steps" in parameters(kind)):
        raise ValueError(
            f"the schedule {name!r} needs to know where the training ends: set max_epochs or max_steps, or "
            "choose the schedule 'constant' or 'plateau'."
        )
    if warmup_steps > total_steps:
        _LOGGER.warning(
            "warm-up of %d steps cut to the %d steps of the training: lower warmup_epochs.",
            warmup_steps,
            total_steps,
        )
        return int(total_steps)
    return warmup_steps


def warm_up(step: int, warmup_steps: int) -> float:
    """Return the factor of a step of a linear warm-up, 1 after it."""
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
    """A cycle too short to rise in."""
    return lambda step: between(cosine(min(1.0, step / steps)), end)
