"""Weight decay that changes in the course of training."""

import math

import lightning as L
from torch.optim import Optimizer

from lit_cv.errors import OptionError

__all__ = ["WeightDecaySchedule"]


class WeightDecaySchedule(L.Callback):
    """Moves the weight decay from its initial value to a final one along a cosine, step by step.

    DINO uses it with transformers, from 0.04 to 0.4 (Caron et al. 2021). Parameters without weight decay, such as
    biases, stay without. The value only depends on the step, so that a resumed run equals an uninterrupted one.

    Args:
        final: Weight decay of the last step.

    Raises:
        ValueError: If it is negative, or the module has no weight decay to change.

    Example:
        >>> WeightDecaySchedule(0.4).at(0.04, 0.5)
        0.22
    """

    def __init__(self, final: float) -> None:
        if not final >= 0:
            raise OptionError(self, "final", final, "must be at least 0")
        self.final = final
        self._initial: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the initial values; those of a resumed run are not restored yet."""
        self._initial = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Set the weight decay of this step."""
        if not self._initial:
            self._initial = [group["weight_decay"] for group in optimizer.param_groups]
            if self.final and not any(self._initial):
                raise OptionError(pl_module, "weight_decay", 0.0, "must be above 0, where WeightDecaySchedule starts")
        progress = min(1.0, trainer.global_step / trainer.estimated_stepping_batches)
        for group, initial in zip(optimizer.param_groups, self._initial, strict=True):
            group["weight_decay"] = self.at(initial, progress)

    def at(self, initial: float, progress: float) -> float:
        """Return the weight decay after a share `progress` of the steps, from 0 to 1; 0 stays 0."""
        if not initial:
            return 0.0
        return self.final + (initial - self.final) * (1 + math.cos(math.pi * progress)) / 2
