"""Comparison of domain adaptation with learning from the source alone."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from lit_cv.callbacks.monitored import is_better, monitor_and_mode, monitored_value
from lit_cv.contracts import module_extras
from lit_cv.errors import argument
from lit_cv.loop_state import run_validation

__all__ = ["SourceBaseline"]

log = logging.getLogger("lit_cv")


class SourceBaseline(L.Callback):
    """Keeps the network that was trained on the source alone if adaptation does not seem to improve it.

    Adaptation may do harm, and without labels of the target nobody sees it. This callback compares the monitored
    metric, which uses none of these labels, of all validations with that of the baseline: of the initial weights, if
    they are those of a trained network (`weights`), which are validated before the first step, and of epochs that learn
    from the source alone (`source_epochs`). The baseline competes for the best checkpoint like every epoch. At the end
    the log says which won. It does nothing for modules that do not adapt.
    """

    def __init__(self) -> None:
        self.baseline: float | None = None
        self.adapted: float | None = None
        self._mode = "max"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the initial weights."""
        module = module_extras(pl_module)
        if trainer.global_step or self.baseline is not None or not module.adapts or not module.starts_trained:
            return
        if trainer.limit_val_batches and trainer.enable_validation:
            run_validation(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the score of the baseline or of the adapted network."""
        adapts = module_extras(pl_module).adapts
        if trainer.sanity_checking or trainer.state.fn != "fit" or adapts is None:
            return
        monitor, self._mode = monitor_and_mode(trainer, pl_module)
        score = monitored_value(trainer, monitor)
        if score is None:
            return
        if not adapts or not trainer.global_step:
            self.baseline = score if is_better(score, self.baseline, self._mode) else self.baseline
        else:
            self.adapted = score if is_better(score, self.adapted, self._mode) else self.adapted

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log whether adaptation seems to have helped."""
        if not module_extras(pl_module).adapts or self.adapted is None:
            return
        monitor, _ = monitor_and_mode(trainer, pl_module)
        if self.baseline is None:
            rank_zero_only(log.info)(
                "Whether adaptation has helped is unknown. To compare it with a network that was trained on the source "
                f"alone, set {argument('weights', pl_module)} to a checkpoint of one."
            )
            return
        values = f"{monitor} {self.adapted:.4f}, source alone {self.baseline:.4f}"
        if self.adapted == self.baseline:
            rank_zero_only(log.info)(
                f"Whether adaptation has helped is unknown ({values}): of equal scores the latest one is the best."
            )
        elif is_better(self.adapted, self.baseline, self._mode):
            rank_zero_only(log.info)(f"Adaptation seems to have helped: {values}.")
        else:
            rank_zero_only(log.warning)(
                f"Adaptation does not seem to have helped ({values}): the best checkpoint is that of the source alone."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far."""
        return {"baseline": self.baseline, "adapted": self.adapted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores so far."""
        self.baseline, self.adapted = state_dict["baseline"], state_dict["adapted"]
