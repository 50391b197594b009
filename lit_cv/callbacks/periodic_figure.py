"""Figures drawn from time to time and when training ends."""

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning as L

from lit_cv.callbacks.run_output import figures_wanted, guarded
from lit_cv.errors import OptionError

__all__ = ["PeriodicFigure"]


class PeriodicFigure(L.Callback, ABC):
    """Base of callbacks that keep data of a validation and draw the newest.

    Figures are drawn after a validation if `every_n_seconds` have passed, and when training ends, even after an error.
    A subclass implements `look`, which stores data by `keep`, and `draw`. Errors in them are logged and do not end the
    run.

    Args:
        every_n_seconds: During training, minimum time between two drawings.
    """

    what: ClassVar[str] = "Drawing"  # subject of the message after an error

    def __init__(self, every_n_seconds: float) -> None:
        if every_n_seconds < 0:
            raise OptionError(self, "every_n_seconds", every_n_seconds, "must be at least 0 (0: every validation)")
        self.every_n_seconds = every_n_seconds
        self._pending: Any = None  # kept but not yet drawn
        self._drawn_at = 0.0
        self.active = False  # whether validations of this run are looked at

    def is_wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Return whether this rank looks at the validations of a fit."""
        return trainer.is_global_zero and figures_wanted(trainer)

    @abstractmethod
    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Process a validation batch and the outputs of its step."""

    @abstractmethod
    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Draw the data stored by `keep`."""

    def keep(self, content: Any) -> None:
        """Store the data of the next figure, replacing earlier data."""
        self._pending = content

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and determine whether this callback is active."""
        self._pending = None
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
        """Process a batch of the first loader."""
        if self.active and not trainer.sanity_checking and dataloader_idx == 0:
            self.look(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw if `every_n_seconds` have passed."""
        if time.monotonic() - self._drawn_at >= self.every_n_seconds:
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last stored data."""
        self._draw(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw the last stored data of a run that ends early."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        content, self._pending = self._pending, None
        if content is None:
            return
        with guarded(self.what):
            self.draw(trainer, pl_module, content)
        self._drawn_at = time.monotonic()
