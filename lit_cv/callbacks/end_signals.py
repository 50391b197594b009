"""Signals that end a run between two steps."""

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

_ASKING = 10  # steps from one exchange to the next
_REPEATED = 1.0  # seconds: `timeout` signals its child and then the group, launchers pass on what has come already


class EndSignals:
    """Ctrl-C, and the SIGTERM by which schedulers end a job: noted when it comes, to be acted on between steps.

    A second signal ends the run at once.

    Attributes:
        received: Whether a signal has come, to this process or, once they have exchanged it, to another one.
    """

    def __init__(self) -> None:
        self.received = False
        self._signal = signal.SIGINT
        self._since = -math.inf  # when it came
        self._handled = False

    def reset(self) -> None:
        """Forget the run before."""
        self.received = self._handled = False

    def handle(self, trainer: L.Trainer) -> None:
        """Set the handlers of a run in place of Lightning's, which saves nothing, and makes ranks wait for one another.

        Lightning has noted the handlers before its own by now, and restores them however the run ends.
        """
        main_thread = threading.current_thread() is threading.main_thread()
        if self._handled or not main_thread or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._handled = True
        signal.signal(signal.SIGINT, self._note)
        if not _requeues(trainer):
            signal.signal(signal.SIGTERM, self._note)

    def received_by_any(self, trainer: L.Trainer, batch_idx: int | None = None) -> bool:
        """Return whether a signal has come; several processes, which get it at different steps, ask each other.

        Args:
            trainer: The Trainer.
            batch_idx: Batch of the epoch, of which some are left out of the exchange; `None` at its end.
        """
        if trainer.world_size == 1:
            return self.received
        if batch_idx is not None and (batch_idx + 1) % (_ASKING * trainer.accumulate_grad_batches):
            return False
        received = trainer.strategy.reduce_boolean_decision(self.received, all=False)
        if received and not self.received:  # what the others have received, they have received by this
            self.received, self._signal, self._since = True, signal.SIGTERM, time.monotonic()
        return received

    def end_together(self, trainer: L.Trainer) -> NoReturn:
        """End, as all ranks do at this step."""
        stop_watching_ranks(trainer)
        self._end()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(signum)
        if self.received:
            if time.monotonic() - self._since < _REPEATED:
                return
            self._end()
        self.received, self._since = True, time.monotonic()
        name = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
        log.info("%s: finishing this step and saving; a second one stops at once.", name)

    def _end(self) -> NoReturn:
        if self._signal == signal.SIGTERM:
            raise SIGTERMException(128 + signal.SIGTERM)  # the status of a process that the signal has ended
        raise KeyboardInterrupt


def _requeues(trainer: L.Trainer) -> bool:
    """Whether Lightning itself saves and requeues the job when its time is up, by signals of its own."""
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue
