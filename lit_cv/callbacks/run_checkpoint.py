"""The checkpoints of a run: the best one by the module's own metric, and the last one."""

import logging
import math
import re
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_cv.atomic_files import next_free_path
from lit_cv.callbacks.monitored import is_better, mode_of, monitored_value
from lit_cv.checkpoint_file import load_tensors
from lit_cv.checkpoint_io import link_checkpoint
from lit_cv.contracts import as_module, datamodule_of
from lit_cv.loop_state import validation_due
from lit_cv.metrics_csv import MetricsCSVLogger
from lit_cv.registry import trust_option
from lit_cv.strategies import stop_watching_ranks

__all__ = ["RunCheckpoint"]

log = logging.getLogger("lit_cv")

_BEST = "best.ckpt"
_ASKING = 10  # steps from one exchange to the next
_REPEATED = 1.0  # seconds: `timeout` signals its child and then the group, launchers pass on what has come already


class RunCheckpoint(Checkpoint):
    """Keeps `checkpoints/best.ckpt` and `checkpoints/last.ckpt` in the run's folder.

    The best is chosen by the module's own `monitor` and `mode`, the later of equal ones; scores that are not finite do
    not count. Both are written at the
    end of an epoch, and the last one, if asked, every so many steps, from which training continues in the middle
    of an epoch. On Ctrl-C, and on the SIGTERM by which schedulers end a job (exit status 143), the step or validation
    under way is finished and saved before training ends; a second one ends it at once. Several processes end at the
    same step, within ten of the signal, whichever of them gets it.

    For more than this (several best ones, other names) put Lightning's ModelCheckpoint into
    `trainer.callbacks`; it replaces this callback.

    Args:
        every_n_steps: Also write `last.ckpt` after every that many optimizer steps; 0 for epochs only.
        monitor: Metric to choose the best by; `None` takes the module's.
        mode: Whether a smaller (`min`) or greater (`max`) value is better; `None` takes the module's, or for another
            metric what its name says.
    """

    def __init__(self, every_n_steps: int = 0, monitor: str | None = None, mode: str | None = None) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps={every_n_steps}: give a number of steps, or 0 for epochs only.")
        if mode not in (None, "min", "max"):
            raise ValueError(f"mode={mode!r}: give 'min' or 'max', or leave it out for the module's own.")
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
        self._cut = False
        self._trained = False
        self._interrupted = False
        self._ending = False
        self._signal = signal.SIGINT
        self._since = -math.inf  # when it came
        self._has_signals = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Settle the folder."""
        if stage == "fit":
            root = trainer.strategy.broadcast(trainer.log_dir or trainer.default_root_dir)
            self._folder = Path(root) / "checkpoints"
            _check_same_checkpoint(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the module's metric, which its data may decide."""
        self.monitor = self.monitor or as_module(pl_module).monitor
        self.mode = self.mode or mode_of(self.monitor, pl_module, "--checkpoint.mode")
        self._take_up_best(trainer)
        self._interrupted = self._ending = self._has_signals = False

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals that are to end a run between steps."""
        self._take_signals(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals where no sanity check came before."""
        self._take_signals(trainer)

    def _take_signals(self, trainer: L.Trainer) -> None:
        """Set the handlers of a run in place of Lightning's, which saves nothing, and makes ranks wait for one another.

        Lightning has noted the handlers before its own by now, and restores them however the run ends.
        """
        main_thread = threading.current_thread() is threading.main_thread()
        if self._has_signals or not main_thread or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._has_signals = True
        signal.signal(signal.SIGINT, self._interrupt)
        if not _requeues(trainer):
            signal.signal(signal.SIGTERM, self._interrupt)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what was logged at the end of the epoch before, or end after a signal, now that it is."""
        _write_tables(trainer)
        if self._ending:
            self._end_together(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the last checkpoint when its turn has come."""
        step = trainer.global_step
        # Steps or time are up in the middle of an epoch: a run that is made longer goes on with the rest of it.
        self._cut = (step == trainer.max_steps or trainer.should_stop) and not trainer.is_last_batch
        if trainer.is_last_batch and not validation_due(trainer):
            return  # the epoch ends now
        due = self.every_n_steps and step % self.every_n_steps == 0
        if (due or self._cut) and step != self._saved_step:
            self._save_last(trainer)
        if self._is_told(trainer, batch_idx):
            # Gradients gathered so far are not in a checkpoint: mid-accumulation the one before stands.
            if step != self._saved_step and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
                self._save_last(trainer)
            self._ending = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End training after a signal, now that the step before is saved and its numbers are logged."""
        self._trained = True
        if self._ending:
            self._end_together(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table, for validation may take long, or end training after a signal before it is validated."""
        _write_tables(trainer)
        if self._ending:
            self._end_together(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save when validation runs more often than epochs end."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = True
            if getattr(trainer, "val_check_interval", None) != 1.0:  # which is missing where it is a time
                self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the end of an epoch, when its metrics are known; of one that was cut off, that is done."""
        self._save(trainer, last=not self._cut)
        self._ending = self._is_told(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say what is left of a run that ends early."""
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        if self.last_model_path:
            log.info(
                "Stopped at step %d. Continue with: lit-cv fit --ckpt_path %s%s",
                trainer.global_step,
                self.last_model_path,
                trust_option(pl_module, datamodule_of(trainer), *trainer.callbacks),  # type: ignore[attr-defined]
            )
        elif self._trained:
            log.info("Stopped at step %d, before the first checkpoint.", trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far, by which metric, and where it lies."""
        return {
            "best_model_score": self.best_model_score,
            "best_model_path": self.best_model_path,
            "monitor": self.monitor,
            "mode": self.mode,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what `state_dict` gave until the metric of this run is known."""
        self._restored = dict(state_dict)

    def _take_up_best(self, trainer: L.Trainer) -> None:
        """Take up the best checkpoint beside the one that is continued, if its score can be compared with new ones."""
        state, self._restored = self._restored, None
        if state is None or not trainer.ckpt_path:
            return
        best, own = Path(trainer.ckpt_path).with_name(_BEST), self._folder / _BEST
        score = state.get("best_model_score")
        if not best.is_file() or not isinstance(score, float) or not math.isfinite(score):
            return
        if _step_of(best) > _step_of(Path(trainer.ckpt_path)):
            return  # of later than the checkpoint: this run may not come to it
        before = state.get("monitor", self.monitor), state.get("mode", self.mode)
        if before != (self.monitor, self.mode):
            self._keep_other_best(trainer, best, str(before[0]))
            return
        if trainer.is_global_zero and not (own.is_file() and own.samefile(best)):
            self._folder.mkdir(parents=True, exist_ok=True)
            link_checkpoint(best, own)  # of a run that this one starts from
        trainer.strategy.barrier()
        self.best_model_score, self.best_model_path = score, str(own)

    def _keep_other_best(self, trainer: L.Trainer, best: Path, monitor: str) -> None:
        """Give the best checkpoint by another metric a name of its own: its score says nothing about this metric."""
        if not trainer.is_global_zero:
            return
        name = re.sub(r"\W", "_", monitor)[:50]
        kept = next_free_path(self._folder / f"best_by_{name}.ckpt")
        self._folder.mkdir(parents=True, exist_ok=True)
        link_checkpoint(best, kept)
        log.info(
            "The best checkpoint was chosen by %s, from now on it is by %s: the one so far is kept as %s.",
            name,
            self.monitor,
            kept,
        )

    def _save(self, trainer: L.Trainer, last: bool = True) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        score = monitored_value(trainer, self.monitor)
        if not self._validated and str(self.monitor).startswith("val_"):
            score = None  # what is there is of an earlier epoch
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
        _write_tables(trainer)  # a run that goes on from here logs nothing again that came before
        trainer.save_checkpoint(path)
        self._saved_step = trainer.global_step

    def _is_best(self, score: float | None) -> bool:
        if self.best_model_score is None:
            return True  # while there is no score the newest counts as the best
        return score is not None and is_better(score, self.best_model_score, str(self.mode))

    def _is_told(self, trainer: L.Trainer, batch_idx: int | None = None) -> bool:
        """Whether a signal has come; several processes, which get it at different steps, ask each other."""
        if trainer.world_size == 1:
            return self._interrupted
        if batch_idx is not None and (batch_idx + 1) % (_ASKING * trainer.accumulate_grad_batches):
            return False
        told = trainer.strategy.reduce_boolean_decision(self._interrupted, all=False)
        if told and not self._interrupted:  # what the others are told, they are told by this
            self._interrupted, self._signal, self._since = True, signal.SIGTERM, time.monotonic()
        return told

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(signum)
        if self._interrupted:
            if time.monotonic() - self._since < _REPEATED:
                return
            self._end()
        self._interrupted, self._since = True, time.monotonic()
        name = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
        log.info("%s: finishing this step and saving; a second one stops at once.", name)

    def _end_together(self, trainer: L.Trainer) -> NoReturn:
        """End, as all ranks do at this step."""
        stop_watching_ranks(trainer)
        self._end()

    def _end(self) -> NoReturn:
        if self._signal == signal.SIGTERM:
            raise SIGTERMException(128 + signal.SIGTERM)  # the status of a process that the signal has ended
        raise KeyboardInterrupt


def _check_same_checkpoint(trainer: L.Trainer) -> None:
    """Refuse ranks that continue different runs: `last` is the newest of several that may be under way."""
    chosen = Path(trainer.ckpt_path or "").parts[-3:]  # version_N/checkpoints/last.ckpt: folders differ by node
    first = trainer.strategy.broadcast(chosen)
    if chosen != first:
        raise ValueError(
            f"rank {trainer.global_rank} continues from {trainer.ckpt_path}, rank 0 from {Path(*first)}: name "
            "the file with --ckpt_path."
        )


def _step_of(path: Path) -> float:
    """Return the optimizer steps of a checkpoint, infinity for a damaged one."""
    try:
        return int(load_tensors(path)["global_step"])
    except Exception:  # torch raises all kinds of errors for files of other kinds
        return math.inf


def _write_tables(trainer: L.Trainer) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSVLogger):
            logger.save()


def _requeues(trainer: L.Trainer) -> bool:
    """Whether Lightning itself saves and requeues the job when its time is up, by signals of its own."""
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue
