"""Warning of collapsed features in training without labels."""

import logging
import math
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.augmentation import image_batches
from lit_cv.callbacks.embedding import embed_images, evaluate
from lit_cv.contracts import as_module
from lit_cv.errors import DATA, argument, setting
from lit_cv.metrics import effective_rank, spread

__all__ = ["CollapseWarning"]

log = logging.getLogger("lit_cv")

_LOW_RANK, _FALL_OF_RANK = 8.0, 3.0
_LOW_SPREAD = {"features": 3e-6, "projections": 3e-4}
_FALL_OF_SPREAD = 40.0
_ROWS = 128  # images of a batch that are measured
_ENOUGH = 64  # images to measure, from several batches if these are small
_FEWEST = 16  # images without which nothing is measured
_DIMENSIONS = 2048  # of wider features, as many evenly spaced dimensions are measured
_NARROW = 16  # dimensions below which the output of `forward` is that of a classifier, not a projection


class _Measures(NamedTuple):
    spread: float
    rank: float


_UNKNOWN = _Measures(spread=1e-3, rank=6.0)  # stands for measures before training that are missing


class CollapseWarning(L.Callback):
    """Warns if the features of different images become nearly equal, or vary in a few dimensions only.

    A module that learns without labels may collapse: it maps all images to one feature, or to a line, which makes views
    of an image equal and teaches nothing. The loss often looks good then. At the end of each epoch, the last 64 or more
    images (their first views, if the batch has `views`) pass through the module in evaluation mode, without a
    gradient: through `embed`, and through `forward` for the projections that the loss sees, if it returns (N, D) with
    D of at least 16. Two numbers are compared with those before the first step:

    - the spread, 1 minus the mean cosine similarity of different images: it is a collapse if it is below a 40th of that
      at the start, and below 3e-4 (projections) or 3e-6 (features);
    - the effective rank (`metrics.effective_rank`) of the features minus their mean: it is a collapse if it is below a
      third of that at the start, and below 8.

    A collapse is logged once as a warning. Validation and labels are not needed.

    Measured on digits with batches of 256, 5 steps an epoch: projections of SimCLR, BYOL, VICReg and SimSiam that learn
    kept at least half of the initial rank and 0.04 of the spread; a masked autoencoder lowered the spread of its
    features from 5e-3 to 8e-5. Without predictor and stopped gradient, with a learning rate of 1 (AdamW) or 100 (SGD),
    or without VICReg's variance term, the rank fell to 1 to 4, or with a vision transformer the spread to 2e-4 or less,
    within two epochs. A last BatchNorm in the projector, or projections of 16 dimensions from `conv4`, kept a higher
    rank in one of two seeds, which is not reported.

    For modules with `evaluates_embedding` the command line adds this callback. It must come after
    `ContrastiveAugmentation` in the list of callbacks. A resumed run warns as an uninterrupted one.

    Args:
        stop: Whether a collapse also ends the training.

    Raises:
        TypeError: If the module has no `embed`, or a batch is not a dict with "image".

    Example:
        >>> CollapseWarning(stop=True).stop
        True
    """

    def __init__(self, stop: bool = False) -> None:
        self.stop = stop
        self.warned = False
        self._start: dict[str, _Measures] = {}
        self._features: dict[str, list[Tensor]] = {}  # of the last batches of the epoch, by kind

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the features before the first step."""
        if trainer.global_step == 0 and not self._start:
            features = _features(trainer, pl_module, _images(pl_module, batch))
            self._start = _measure({name: [rows] for name, rows in features.items()})

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the features of the last images of the epoch."""
        images = _images(pl_module, batch)
        count = trainer.num_training_batches
        remaining = count - batch_idx - 1 if math.isfinite(count) else 2 * _ENOUGH * (not trainer.is_last_batch)
        if images is None or (remaining - 1) * len(images) >= _ENOUGH:  # always measures the last two batches
            return
        for name, rows in _features(trainer, pl_module, images).items():
            self._features.setdefault(name, []).append(rows)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of a collapse."""
        measures, self._features = _measure(self._features), {}
        problem = next((text for name in measures if (text := self._problem(name, measures[name]))), None)
        problem = trainer.strategy.broadcast(problem)  # ranks have different images, and must decide alike
        if problem is None or (self.warned and not self.stop):
            return
        self.warned = True
        if trainer.is_global_zero:
            ending = " Stopping the training." if self.stop else ""
            log.warning(
                "Collapse in epoch %d: %s. To prevent it, %s.%s",
                *(trainer.current_epoch + 1, problem, _advice(pl_module), ending),
            )
        trainer.should_stop = trainer.should_stop or self.stop

    def state_dict(self) -> dict[str, Any]:
        """Return the measures at the start, and features that are not yet measured."""
        features = {name: [rows.cpu() for rows in batches] for name, batches in self._features.items()}
        start = {name: list(measures) for name, measures in self._start.items()}
        return {"warned": self.warned, "start": start, "features": features}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.warned = state_dict["warned"]
        self._start = {name: _Measures(*measures) for name, measures in state_dict["start"].items()}
        self._features = {name: list(batches) for name, batches in state_dict["features"].items()}

    def _problem(self, name: str, now: _Measures) -> str | None:
        """Return what the measures of features reveal, `None` if that is no collapse."""
        start = self._start.get(name, _UNKNOWN)
        if now.spread < _LOW_SPREAD[name] and now.spread < start.spread / _FALL_OF_SPREAD:
            before = f" ({start.spread:.1e} before training)" if name in self._start else ""
            return (
                f"the {name} of images are nearly equal, 1 - their mean cosine similarity is {now.spread:.1e}{before}"
            )
        if now.rank < _LOW_RANK and now.rank < start.rank / _FALL_OF_RANK:
            before = f" ({start.rank:.1f} before training)" if name in self._start else ""
            return f"the {name} of images vary in few dimensions, their effective rank is {now.rank:.1f}{before}"
        return None


def _advice(pl_module: L.LightningModule) -> str:
    """Return what to change, by the arguments that the module has."""
    changes = [f"lower {argument('lr', pl_module)}"]
    if pl_module.hparams.get("projector_norm") is False:
        changes.append(f"use BatchNorm in the projector ({setting('projector_norm', True, pl_module)})")
    if "temperature" in pl_module.hparams:
        changes.append(f"change {argument('temperature', pl_module)}")
    return f"{', '.join(changes)}, raise {argument('batch_size', DATA)}, or check the weights of the loss terms"


def _images(pl_module: L.LightningModule, batch: Any) -> Tensor | None:
    """Return the images of a batch to measure: their first views, if the module learns from views."""
    part = next(image_batches(batch, "CollapseWarning"))
    views = part.get("views")
    if isinstance(views, Tensor):
        return views[0, :_ROWS]
    return None if as_module(pl_module).expects_views else part["image"][:_ROWS]


def _features(trainer: L.Trainer, pl_module: L.LightningModule, images: Tensor | None) -> dict[str, Tensor]:
    """Return features (N, D) of images, and projections (N, D') if `forward` returns any."""
    if images is None:
        return {}
    features = {"features": embed_images(trainer, pl_module, images)}
    output = evaluate(trainer, pl_module, pl_module, images)
    if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] >= _NARROW:
        features["projections"] = output.float()
    return {name: rows[:, :: -(-rows.shape[1] // _DIMENSIONS)] for name, rows in features.items()}


def _measure(features: dict[str, list[Tensor]]) -> dict[str, _Measures]:
    """Return the measures of features from several batches, each of which is centered on its own."""
    measures = {}
    for name, batches in features.items():
        batches = [rows for rows in batches if len(rows) > 1]
        if sum(map(len, batches)) < _FEWEST:
            continue
        weights = [len(rows) - 1 for rows in batches]
        total = torch.stack([weight * spread(rows) for weight, rows in zip(weights, batches, strict=True)]).sum()
        centered = torch.cat([rows - rows.mean(0) for rows in batches])
        measures[name] = _Measures(*torch.stack([total / sum(weights), effective_rank(centered)]).tolist())
    return measures
