"""Figures that are drawn now and then, and when training ends."""

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning as L

from lit_cv.callbacks.run_output import figures_wanted, guarded
from lit_cv.errors import OptionError

__all__ = ["PeriodicFigure"]


class PeriodicFigure(L.Callback, ABC):
    """Base of callbacks that keep what a validation found and draw the newest of it.

    It is drawn after a validation if it is time, and when training ends, however it ends. A subclass implements `look`,
    which keeps what is to be drawn by `keep`, and `draw`; an error there is told and does not end the run.

    Args:
        every_n_seconds: While training goes on, draw at most this often.
    """

    what: ClassVar[str] = "Drawing"  # for the message if it fails

    def __init__(self, every_n_seconds: float) -> None:
        if every_n_seconds < 0:
            raise OptionError(
                self, "every_n_seconds", every_n_seconds, "give a number of seconds, 0 for every validation"
            )
        self.every_n_seconds = every_n_seconds
        self._kept: Any = None  # not drawn yet
        self._drawn_at = 0.0
        self.active = False  # whether this run has anything to look at

    def is_wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Return whether this process is to look at the validations of a fit."""
        return trainer.is_global_zero and figures_wanted(trainer)

    @abstractmethod
    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at a validation batch, and at what the step returned for it."""

    @abstractmethod
    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Draw what was kept."""

    def keep(self, found: Any) -> None:
        """Keep what is to be drawn next, in place of what was kept before."""
        self._kept = found

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and settle whether there is anything to do."""
        self._kept = None
        self._drawn_at = time.monotonic()
        self.active = self.is_wanted(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch of the first loader."""
        if self.active and not trainer.sanity_checking and dataloader_idx == 0:
            self.look(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw if it is time."""
        if time.monotonic() - self._drawn_at >= self.every_n_seconds:
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what was kept last."""
        self._draw(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw what was kept last in a run that ends early."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            return
        with guarded(self.what):
            self.draw(trainer, pl_module, kept)
        self._drawn_at = time.monotonic()
