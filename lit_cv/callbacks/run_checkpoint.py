"""Checkpoints of a run: the best by the monitored metric, and the last."""

import logging
import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lit_cv.callbacks.end_signals import EndSignals
from lit_cv.callbacks.monitored import is_better, mode_of, monitored_value
from lit_cv.callbacks.resumed_best import resumed_best
from lit_cv.callbacks.run_output import write_tables
from lit_cv.checkpoint_io import link_checkpoint
from lit_cv.contracts import as_module, datamodule_of
from lit_cv.errors import FIT, OptionError, argument, option, setting
from lit_cv.loop_state import validation_due
from lit_cv.trust import trust_option

__all__ = ["RunCheckpoint"]

log = logging.getLogger("lit_cv")

_BEST = "best.ckpt"


class RunCheckpoint(Checkpoint):
    """Keeps `checkpoints/best.ckpt` and `checkpoints/last.ckpt` in the run's folder.

    The best checkpoint is selected by the module's `monitor` and `mode`. Of equal scores the later one wins; scores
    that are not finite do not count. Both are written at the end of an epoch. With `every_n_steps` the last one is also
    written within an epoch, and training resumes from there. On Ctrl-C, and on the SIGTERM that schedulers send to end
    a job (exit status 143), the current step or validation is finished and saved before training ends; a second signal
    ends it at once. With several ranks all end at the same step, within ten steps of the first signal on any of them.

    For more (several best checkpoints, other names) add Lightning's ModelCheckpoint to `trainer.callbacks`; it replaces
    this callback.

    Args:
        every_n_steps: Also write `last.ckpt` after every n-th optimizer step; 0 for epochs only.
        monitor: Metric that selects the best checkpoint; `None` uses the module's.
        mode: Whether a smaller (`min`) or greater (`max`) value is better; `None` uses the module's, or infers it from
            the name of another metric.
    """

    def __init__(self, every_n_steps: int = 0, monitor: str | None = None, mode: str | None = None) -> None:
        if every_n_steps < 0:
            raise OptionError(self, "every_n_steps", every_n_steps, "must be at least 0 (0: at the end of epochs only)")
        if mode not in (None, "min", "max"):
            raise OptionError(self, "mode", mode, "must be 'min' or 'max'; leave it out for the module's mode")
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.mode = mode
        self.best_model_path = ""
        self.best_model_score: float | None = None
        self.last_model_path = ""
        self._folder = Path()
        self._restored: dict[str, Any] | None = None
        self._saved_step = -1
        self._validated = False
        self._cut_short = False
        self._trained = False
        self._ending = False
        self.signals = EndSignals()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Determine the folder."""
        if stage == "fit":
            root = trainer.strategy.broadcast(trainer.log_dir or trainer.default_root_dir)
            self._folder = Path(root) / "checkpoints"
            _check_same_checkpoint(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Use the module's metric, which its data may determine, and carry over the best checkpoint."""
        self.monitor = self.monitor or as_module(pl_module).monitor
        self.mode = self.mode or mode_of(self.monitor, pl_module, self)
        state, self._restored = self._restored, None
        best = self._folder / _BEST
        if state and (score := resumed_best(trainer, best, state, self.monitor, self.mode)) is not None:
            self.best_model_score, self.best_model_path = score, str(best)
        self._ending = False
        self.signals.reset()

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers."""
        self.signals.handle(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers if there was no sanity check."""
        self.signals.handle(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what the previous epoch logged at its end; then end training after a signal."""
        write_tables(trainer)
        if self._ending:
            self.signals.end_together(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the last checkpoint if it is due or training ends after this step."""
        step = trainer.global_step
        # When training ends within an epoch by steps or time, a longer run later resumes with the rest of the epoch.
        self._cut_short = (step == trainer.max_steps or trainer.should_stop) and not trainer.is_last_batch
        if trainer.is_last_batch and not validation_due(trainer):
            return  # saved at the end of the epoch, which comes next
        due = self.every_n_steps and step % self.every_n_steps == 0
        if (due or self._cut_short) and step != self._saved_step:
            self._save_last(trainer)
        if self.signals.received_by_any(trainer, batch_idx):
            # A checkpoint has no accumulated gradients: within an accumulation the previous checkpoint remains.
            if step != self._saved_step and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
                self._save_last(trainer)
            self._ending = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End training after a signal, now that the previous step is saved and logged."""
        self._trained = True
        if self._ending:
            self.signals.end_together(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the tables, as validation may take long, or end training after a signal without validation."""
        write_tables(trainer)
        if self._ending:
            self.signals.end_together(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if validation runs at other times than at the end of epochs."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = True
            # `val_check_interval` is missing if validation is timed; before the first step no epoch end saves
            if getattr(trainer, "val_check_interval", None) != 1.0 or not trainer.global_step:
                self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the end of an epoch, when its metrics are complete, unless a checkpoint within it was the last."""
        self._save(trainer, last=not self._cut_short)
        self._ending = self.signals.received_by_any(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Log how to resume a run that ends early."""
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        if self.last_model_path:
            last = setting("ckpt_path", self.last_model_path, FIT)
            if option("ckpt_path", FIT):
                trust = trust_option(pl_module, datamodule_of(trainer), *trainer.callbacks)  # type: ignore[attr-defined]
                last = f"lit-cv fit {last}{trust}"
            log.info("Stopped at step %d. Continue with: %s", trainer.global_step, last)
        elif self._trained:
            log.info("Stopped at step %d, before the first checkpoint.", trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its checkpoint, its metric and mode."""
        return {
            "best_model_score": self.best_model_score,
            "best_model_path": self.best_model_path,
            "monitor": self.monitor,
            "mode": self.mode,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the metric of this run is known."""
        self._restored = dict(state_dict)

    def _save(self, trainer: L.Trainer, last: bool = True) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        score = monitored_value(trainer, self.monitor)
        if not self._validated and str(self.monitor).startswith("val_"):
            score = None  # the logged one belongs to an earlier epoch
        self._validated = False
        best = self._is_best(score)
        if best:
            self.best_model_score = None if score is None or not math.isfinite(score) else score
            self.best_model_path = str(self._folder / _BEST)
        if last:
            self._save_last(trainer)
        if best and trainer.is_global_zero:
            link_checkpoint(self._folder / "last.ckpt", self._folder / _BEST)
        trainer.strategy.barrier()

    def _save_last(self, trainer: L.Trainer) -> None:
        path = self._folder / "last.ckpt"
        self.last_model_path = str(path)
        write_tables(trainer)  # a run resumed from here does not log these rows again
        trainer.save_checkpoint(path)
        self._saved_step = trainer.global_step

    def _is_best(self, score: float | None) -> bool:
        if self.best_model_score is None:
            return True  # without any score the newest is the best
        return score is not None and is_better(score, self.best_model_score, str(self.mode))


def _check_same_checkpoint(trainer: L.Trainer) -> None:
    """Raise an error if ranks resume from different runs, since `last` is the newest of possibly several runs."""
    chosen = Path(trainer.ckpt_path or "").parts[-3:]  # version_N/checkpoints/last.ckpt: parent folders differ by node
    first = trainer.strategy.broadcast(chosen)
    if chosen != first:
        raise ValueError(
            f"rank {trainer.global_rank} resumes from {trainer.ckpt_path}, rank 0 from {Path(*first)}: all ranks must "
            f"use the same checkpoint. Set the file with {argument('ckpt_path', FIT)}."
        )
