"""Validation images spread over the entire set, for figures and embeddings."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sized
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.callbacks.periodic_figure import PeriodicFigure
from lit_cv.errors import OptionError
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["SpreadFigure", "spread_rows"]


def spread_rows(trainer: L.Trainer, size: int, batch_idx: int, n: int) -> list[int]:
    """Return the rows of a validation batch that belong to `n` images spread evenly over the first loader.

    They depend only on the sizes of the loader and its batches, so that every validation has the same ones. Without a
    known number of batches, all are in the first batch.

    Args:
        trainer: The Trainer, in a validation.
        size: Number of images in the batch.
        batch_idx: Index of the batch.
        n: Number of images; smaller sets have fewer.
    """
    batches = trainer.num_val_batches[0]
    loaders = trainer.val_dataloaders
    loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
    full, sampler = getattr(loader, "batch_size", None), getattr(loader, "sampler", None)
    if not math.isfinite(batches):
        batches = 1
    elif isinstance(full, int) and isinstance(sampler, Sized):
        total = min(len(sampler), int(batches) * full)
        places = (int((k + 0.5) * total / n) - batch_idx * full for k in range(n))
        return sorted({place for place in places if 0 <= place < size})
    positions = ((k + 0.5) * batches / n for k in range(n))
    return sorted({int((place - batch_idx) * size) for place in positions if batch_idx <= place < batch_idx + 1})


class SpreadFigure(PeriodicFigure):
    """Base of figures of a few validation images, which are spread over the set and the same in every validation.

    A subclass implements `show`, which stores their data by `keep`.

    Args:
        n: Number of images to show.
        every_n_seconds: During training, minimum time between two drawings.
    """

    def __init__(self, n: int, every_n_seconds: float) -> None:
        super().__init__(every_n_seconds)
        if n < 1:
            raise OptionError(self, "n", n, "must be at least 1")
        self.n = n
        self._parts: list[dict[str, Any]] = []

    @abstractmethod
    def show(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: dict[str, Any]) -> None:
        """Process the images, as one batch with the entries of validation batches."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the images of the previous validation."""
        self._parts = []

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Collect the images of a batch that belong to the figure."""
        images = batch.get("image") if isinstance(batch, Mapping) else None
        if not isinstance(images, Tensor) or images.ndim != 4:
            return
        if rows := spread_rows(trainer, len(images), batch_idx, self.n):
            per_image = {k: v for k, v in batch.items() if isinstance(v, Tensor | list) and _length(v) == len(images)}
            self._parts.append({k: [v[i] for i in rows] for k, v in per_image.items()})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Process the images, and draw if it is time."""
        parts, self._parts = self._parts, []
        if parts and self.active:
            self.show(trainer, pl_module, _joined(parts))
        super().on_validation_end(trainer, pl_module)


def _length(values: Tensor | list[Any]) -> int:
    return len(values) if isinstance(values, list) or values.ndim else 0


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one batch; smaller images are padded at the right and at the bottom."""
    common = [name for name in parts[0] if all(name in part for part in parts)]
    values: dict[str, list[Any]] = {name: [value for part in parts for value in part[name]] for name in common}
    joined: dict[str, Any] = {}
    for name, entries in values.items():
        if name == "masks":
            joined[name] = _padded(entries, 0)
        elif name in ("boxes", "box_labels") or not all(isinstance(entry, Tensor) for entry in entries):
            joined[name] = entries
        elif name in ("image", "mask"):
            joined[name] = torch.stack(_padded(entries, IGNORE_INDEX if name == "mask" else 0))
        elif len({entry.shape for entry in entries}) == 1:
            joined[name] = torch.stack(entries)
    return joined


def _padded(entries: list[Tensor], value: int) -> list[Tensor]:
    height, width = (max(entry.shape[axis] for entry in entries) for axis in (-2, -1))
    return [F.pad(e, (0, width - e.shape[-1], 0, height - e.shape[-2]), value=value) for e in entries]
