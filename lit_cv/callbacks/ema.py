"""Exponential moving average of the weights."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.errors import OptionError, argument
from lit_cv.nn.moving_average import move_averages
from lit_cv.strategies import require_replicated_weights

__all__ = ["EMA"]


class EMA(L.Callback):
    """Keeps a moving average of all weights, which validates, is saved as the model, and remains at the end.

    After each optimizer step t, `average = d * average + (1 - d) * weights` with
    d = min(decay, (1 + t) / (10 + t)), so that the random start is forgotten soon. Without that ramp of d, the start
    counts by decay ** t: after few steps the average lies between pretrained weights and trained ones, which is better
    than both from few images (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"), after many it does not
    count. Buffers such as the statistics of BatchNorm are averaged, too. A checkpoint's `state_dict` holds the average,
    hence every later use takes it; the weights in training lie beside it, for an exact resume.

    Args:
        decay: Share of the old average that stays at each step, such as 0.999; `None` keeps no average.
        ramp: Whether the decay rises from 2 / 11; turn it off where training starts from good weights.

    Reference: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; the ramp of
    the decay is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, decay: float | None = None, ramp: bool = True) -> None:
        if decay is not None and not 0 < decay < 1:
            raise OptionError(self, "decay", decay, "give a number between 0 and 1, such as 0.999")
        self.decay = decay
        self.ramp = ramp
        self.enabled = decay is not None
        self._average: dict[str, Tensor] = {}
        self._live: dict[str, Tensor] = {}
        self._step = 0
        self._swapped = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the weights as they are, or go on with what a checkpoint held."""
        decay = argument("decay", self)
        require_replicated_weights(trainer, f"a moving average ({decay})", f"leave {decay} out")
        self._live = _state(pl_module)
        start = self._average or {name: value.clone() for name, value in self._live.items()}
        self._average = {name: start[name].to(value.device) for name, value in self._live.items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from what the module has made of its weights since, such as a solved head, unless this goes on."""
        if self._step == 0:
            for name, value in self._live.items():
                self._average[name].copy_(value)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average after each optimizer step."""
        if trainer.global_step == self._step or self.decay is None:
            return
        self._step = trainer.global_step
        decay = min(self.decay, (1 + self._step) / (10 + self._step)) if self.ramp else self.decay
        move_averages((self._average[name] for name in self._live), self._live.values(), decay)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn == "fit" and not self._swapped:
            self._swap()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on training the weights."""
        if self._swapped:
            self._swap()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the module."""
        for name, value in self._live.items():
            value.copy_(self._average[name])

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the model, and the weights in training beside it."""
        if self._average:
            checkpoint["ema"] = {"step": self._step, "weights": checkpoint["state_dict"]}
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._average}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both. A checkpoint without an average starts one from its weights."""
        if trainer.state.fn != "fit" or "ema" not in checkpoint:
            return
        self._step = checkpoint["ema"]["step"]
        self._average = {name: checkpoint["state_dict"][name].clone() for name in _state(pl_module)}
        pl_module.load_state_dict(checkpoint["ema"]["weights"])

    def _swap(self) -> None:
        for name, value in self._live.items():
            kept = value.clone()
            value.copy_(self._average[name])
            self._average[name] = kept
        self._swapped = not self._swapped


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers, detached and sharing memory with the module."""
    return {name: value.detach() for name, value in module.state_dict(keep_vars=True).items()}
