"""Exponential moving average of the weights."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.errors import OptionError, argument
from lit_cv.nn.batch_statistics import batch_norms
from lit_cv.nn.moving_average import move_averages
from lit_cv.strategies import require_replicated_weights

__all__ = ["EMA"]


class EMA(L.Callback):
    """Keeps a moving average of all weights, which is used for validation, in checkpoints and after training.

    After each optimizer step t, `average = d * average + (1 - d) * weights` with
    d = min(decay, (1 + t) / (10 + t)), so that the random initialization is soon forgotten. Without this ramp, the
    initial weights count by decay ** t. After few steps the average then lies between pretrained and trained weights,
    which beats both when training images are few (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models");
    after many steps the initial weights no longer matter. BatchNorm's statistics are averaged, too; other buffers, such
    as MoCo's queue, are copied. A checkpoint's `state_dict` holds the average, so every later use gets it; the weights
    in training are saved beside it for an exact resume.

    Args:
        decay: Weight of the old average at each step, such as 0.999; `None` disables the average.
        ramp: Whether the decay rises from 2 / 11; turn it off when training starts from good weights.

    Reference: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; the ramp of
    the decay follows TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, decay: float | None = None, ramp: bool = True) -> None:
        if decay is not None and not 0 < decay < 1:
            raise OptionError(self, "decay", decay, "must be between 0 and 1, such as 0.999")
        self.decay = decay
        self.ramp = ramp
        self.enabled = decay is not None
        self._average: dict[str, Tensor] = {}
        self._live: dict[str, Tensor] = {}
        self._copied: set[str] = set()
        self._step = 0
        self._swapped = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the current weights, or continue with the average of a checkpoint."""
        decay = argument("decay", self)
        require_replicated_weights(trainer, f"a moving average ({decay})", f"leave {decay} out")
        self._live = _state(pl_module)
        self._copied = _copied_buffers(pl_module)
        start = self._average or {name: value.clone() for name, value in self._live.items()}
        self._average = {name: start[name].to(value.device) for name, value in self._live.items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart a new average from weights that the module has changed since, such as a solved head."""
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
        averaged = [name for name in self._live if name not in self._copied]
        move_averages((self._average[name] for name in averaged), (self._live[name] for name in averaged), decay)
        for name in self._copied:
            self._average[name].copy_(self._live[name])

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap the average in for validation."""
        if trainer.state.fn == "fit" and not self._swapped:
            self._swap()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap the weights in training back in."""
        if self._swapped:
            self._swap()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the module."""
        for name, value in self._live.items():
            value.copy_(self._average[name])

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the model, and the weights in training under `ema`."""
        if self._average:
            checkpoint["ema"] = {"step": self._step, "weights": checkpoint["state_dict"]}
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._average}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both. Without an average in the checkpoint, start one from its weights."""
        if trainer.state.fn != "fit" or "ema" not in checkpoint:
            return
        self._step = checkpoint["ema"]["step"]
        self._average = {name: checkpoint["state_dict"][name].clone() for name in _state(pl_module)}
        pl_module.load_state_dict(checkpoint["ema"]["weights"])

    def _swap(self) -> None:
        for name, value in self._live.items():
            live_value = value.clone()
            value.copy_(self._average[name])
            self._average[name] = live_value
        self._swapped = not self._swapped


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers, detached and sharing memory with the module."""
    return {name: value.detach() for name, value in module.state_dict(keep_vars=True).items()}


def _copied_buffers(module: torch.nn.Module) -> set[str]:
    """Return the names of buffers that are no statistics of BatchNorm, such as a queue or thresholds."""
    statistics = {id(buffer) for norm in batch_norms(module) for buffer in norm.buffers(recurse=False)}
    state = module.state_dict(keep_vars=True)
    kept = statistics | {id(parameter) for parameter in module.parameters()}
    return {name for name, value in state.items() if id(value) not in kept}
