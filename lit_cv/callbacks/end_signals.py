"""Signals that end a run between two training steps."""

import logging
import math
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_cv.strategies import stop_watching_ranks

__all__ = ["EndSignals"]

log = logging.getLogger("lit_cv")

_EXCHANGE_STEPS = 10  # steps between two exchanges of the ranks
_REPEAT_SECONDS = 1.0  # repeats within this time are ignored: `timeout` and launchers send signals twice


class EndSignals:
    """Records Ctrl-C, and the SIGTERM that schedulers send to end a job, to be handled between two steps.

    A second signal ends the run at once.

    Attributes:
        received: Whether this rank has received a signal, or another rank has, once they have exchanged it.
    """

    def __init__(self) -> None:
        self.received = False
        self._signal = signal.SIGINT
        self._since = -math.inf  # time of the first signal
        self._handled = False

    def reset(self) -> None:
        """Discard the state of a previous run."""
        self.received = self._handled = False

    def handle(self, trainer: L.Trainer) -> None:
        """Replace Lightning's signal handlers, which save nothing and let ranks wait for one another.

        Lightning has already stored the original handlers, and restores them when the run ends for any reason.
        """
        main_thread = threading.current_thread() is threading.main_thread()
        if self._handled or not main_thread or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._handled = True
        signal.signal(signal.SIGINT, self._note)
        if not _requeues(trainer):
            signal.signal(signal.SIGTERM, self._note)

    def received_by_any(self, trainer: L.Trainer, batch_idx: int | None = None) -> bool:
        """Return whether any rank has received a signal. Ranks receive it at different steps and exchange it regularly.

        Args:
            trainer: The Trainer.
            batch_idx: Index of the batch in the epoch, since only some batches exchange; `None` at the epoch's end.
        """
        if trainer.world_size == 1:
            return self.received
        if batch_idx is not None and (batch_idx + 1) % (_EXCHANGE_STEPS * trainer.accumulate_grad_batches):
            return False
        received = trainer.strategy.reduce_boolean_decision(self.received, all=False)
        if received and not self.received:  # another rank's signal counts as received here
            self.received, self._signal, self._since = True, signal.SIGTERM, time.monotonic()
        return received

    def end_together(self, trainer: L.Trainer) -> NoReturn:
        """End the run at a step at which all ranks do."""
        stop_watching_ranks(trainer)
        self._end()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(signum)
        if self.received:
            if time.monotonic() - self._since < _REPEAT_SECONDS:
                return
            self._end()
        self.received, self._since = True, time.monotonic()
        name = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
        log.info("%s: finishing this step and saving. Send it again to stop at once.", name)

    def _end(self) -> NoReturn:
        if self._signal == signal.SIGTERM:
            raise SIGTERMException(128 + signal.SIGTERM)  # the exit status of a process killed by SIGTERM
        raise KeyboardInterrupt


def _requeues(trainer: L.Trainer) -> bool:
    """Return whether Lightning's own signal handlers save and requeue the SLURM job when its time is up."""
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue
