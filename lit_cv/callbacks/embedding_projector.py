"""Embedding of validation images in TensorBoard's projector."""

import logging
import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lit_cv.callbacks.embedding import embed_batch, has_labels
from lit_cv.callbacks.run_output import class_names, figures_wanted, guarded
from lit_cv.callbacks.spread_images import spread_rows
from lit_cv.errors import OptionError

__all__ = ["EmbeddingProjector"]

log = logging.getLogger("lit_cv")

_SHEET = 8192  # maximum texture side of browsers, in pixels
_SPRITE = 64  # maximum thumbnail side, in pixels


class EmbeddingProjector(L.Callback):
    """Shows the embedding of validation images in TensorBoard's projector (PCA, t-SNE, UMAP) when training ends.

    Each point has its image as a thumbnail and the name of its class for coloring. The images are spread over the
    last validation on rank 0. Other loggers do not get it. Run `tensorboard --logdir lightning_logs` and open the
    Projector tab.

    Args:
        n: Maximum number of images.
    """

    def __init__(self, n: int = 1000) -> None:
        if n < 2:
            raise OptionError(self, "n", n, "must be at least 2")
        self.n = n
        self._parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log that there is no projector without TensorBoard."""
        if trainer.is_global_zero and figures_wanted(trainer) and not _boards(trainer):
            log.warning("EmbeddingProjector writes nothing: it needs a TensorBoardLogger.")

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the embeddings of the previous validation."""
        self._parts, self._step = [], trainer.global_step

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep images with their embeddings."""
        wanted = figures_wanted(trainer) and not trainer.sanity_checking and trainer.is_global_zero
        if not wanted or not _boards(trainer) or dataloader_idx > 0:
            return
        if rows := spread_rows(trainer, len(batch["image"]), batch_idx, self.n):
            embedding = embed_batch(trainer, pl_module, batch, "EmbeddingProjector")[rows]
            labels = batch["label"][rows].cpu() if has_labels(batch) else None
            self._parts.append((embedding.cpu(), batch["image"][rows].cpu(), labels))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the embedding of the last validation."""
        if not self._parts:
            return
        with guarded("Writing the embedding for TensorBoard"):
            embeddings = torch.cat([part[0] for part in self._parts])
            images = torch.cat([part[1] for part in self._parts])
            labels = [part[2] for part in self._parts]
            tensors = [label for label in labels if label is not None]
            names = _names(torch.cat(tensors), class_names(trainer, pl_module)) if len(tensors) == len(labels) else None
            for board in _boards(trainer):
                experiment: Any = board.experiment
                experiment.add_embedding(
                    embeddings, metadata=names, label_img=_sprites(images), global_step=self._step, tag="embedding"
                )


def _boards(trainer: L.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _names(labels: Tensor, names: list[str] | None) -> list[str]:
    clean = {index: name.replace("\t", " ").replace("\n", " ") for index, name in enumerate(names or [])}
    return ["unknown" if label < 0 else clean.get(label, str(label)) for label in labels.tolist()]


def _sprites(images: Tensor) -> Tensor:
    """Return thumbnails (N, 3, s, s) in [0, 1] that fit into one texture."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    side = min(_SPRITE, max(images.shape[2:]), _SHEET // math.ceil(math.sqrt(len(images))))
    images = F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
    if images.shape[1] == 3:
        return images
    return images[:, :1].expand(-1, 3, -1, -1)
