"""Embeddings of images, for callbacks that evaluate them."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.augmentation import image_batches
from lit_cv.contracts import as_module

__all__ = ["embed_batch", "embed_images", "evaluate", "has_labels"]

_KEY = "embedding"


def embed_images(trainer: L.Trainer, pl_module: L.LightningModule, images: Tensor) -> Tensor:
    """Return `pl_module.embed(images)` as (N, D) float32, computed in the run's precision and in evaluation mode.

    No gradients are computed and BatchNorm statistics do not change.

    Raises:
        TypeError: If the module has no `embed`.
    """
    embed = as_module(pl_module).embed
    if embed is None:
        raise TypeError(f"{type(pl_module).__name__} has no method embed(images), which this callback needs.")
    embedding: Tensor = evaluate(trainer, pl_module, embed, images)
    return embedding.float()


@torch.no_grad()
def evaluate(
    trainer: L.Trainer, pl_module: L.LightningModule, function: Callable[[Tensor], Any], images: Tensor
) -> Any:
    """Return `function(images)`, computed by the module in the run's precision and in evaluation mode."""
    training = [module for module in pl_module.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with trainer.precision_plugin.forward_context():
            return function(images)
    finally:
        for module in training:
            module.training = True


def embed_batch(trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, who: str) -> Tensor:
    """Return the embedding of a validation batch's images, computed once for all callbacks.

    Args:
        trainer: The Trainer.
        pl_module: The module.
        batch: A dict with `image`; the embedding is stored in it.
        who: Name of the calling callback, for the message.
    """
    part = next(image_batches(batch, who))
    if _KEY not in part:
        part[_KEY] = embed_images(trainer, pl_module, part["image"])
    embedding: Tensor = part[_KEY]
    return embedding


def has_labels(batch: Any) -> bool:
    """Return whether a batch has one class label per image."""
    return isinstance(batch, dict) and isinstance(batch.get("label"), Tensor) and batch["label"].ndim == 1
