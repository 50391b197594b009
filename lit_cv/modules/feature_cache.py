"""Caching of image features for a classifier on a frozen backbone."""

import logging
import time
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.contracts import as_callback, as_data
from lit_cv.errors import TRAINER, VoidOptionError, argument, setting
from lit_cv.modules.extension_points import ExtensionPoints

__all__ = ["cache_features", "check_caching", "check_extraction", "extract_features"]

log = logging.getLogger("lit_cv")


def check_caching(trainer: L.Trainer) -> None:
    """Raise an error if features cannot be cached because images change between steps or have no index.

    Raises:
        ValueError: If a callback changes the images, or the DataModule does not support caching.
    """
    names = [type(c).__name__ for c in trainer.callbacks if as_callback(c).changes_images]  # type: ignore[attr-defined]
    changing = list(dict.fromkeys(names))
    if changing:
        reason = f"cache_features keeps one feature vector per image, but {' and '.join(changing)} changes the images"
        out = f"leave it out ({argument('callbacks', TRAINER)}), or set {setting('cache_features', False)}"
        raise VoidOptionError(
            TRAINER, "callbacks", changing, reason, ("cache_features",), f"{reason} at every step: {out}."
        )
    check_extraction(trainer, "cache_features")


def check_extraction(trainer: L.Trainer, purpose: str) -> None:
    """Raise an error if the data cannot be run through the backbone in order.

    Args:
        trainer: The Trainer.
        purpose: The argument that requires it.

    Raises:
        ValueError: If the DataModule does not support it.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if as_data(datamodule).ordered_loader is None:
        actual = "plain loaders" if datamodule is None else type(datamodule).__name__
        raise ValueError(
            f"{purpose} needs a subclass of datamodules.BaseDataModule, not {actual}: set {setting(purpose, False)}."
        )


def cache_features(module: ExtensionPoints) -> dict[str, Tensor]:
    """Compute the features of all training and validation images once.

    Returns:
        Features by stage (`train`, `val`), (N, num_features); the `index` of a batch selects its rows.
    """
    datamodule: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    datasets = {"train": datamodule.train_dataset, "val": datamodule.val_dataset}
    start = time.monotonic()
    features = {stage: extract_features(module, data) for stage, data in datasets.items() if data is not None}
    counts = " and ".join(f"{len(value):,} {stage}" for stage, value in features.items())
    log.info("Features of %s images computed in %.1f s and cached for all epochs.", counts, time.monotonic() - start)
    return features


@torch.no_grad()
def extract_features(module: ExtensionPoints, dataset: Any) -> Tensor:
    """Return the features (N, num_features) of all images of a dataset, with the network in eval mode.

    Training images that are larger, to be cropped by an augmentation, are resized to the evaluation size.
    """
    from rich.console import Console
    from rich.progress import track

    datamodule: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    loader = datamodule.ordered_loader(dataset)
    console = Console(stderr=True)
    batches = track(loader, "Computing features", console=console, transient=True, disable=not console.is_terminal)
    features: Tensor | None = None
    size = as_data(datamodule).image_size
    module.backbone.eval()
    for batch in batches:
        with module.trainer.precision_plugin.forward_context():
            batch_features = module.backbone(_resized(batch["image"].to(module.device, non_blocking=True), size))
        if features is None:
            features = batch_features.new_empty(len(dataset), batch_features.shape[1])
        features[batch["index"].to(module.device)] = batch_features
    module.train(module.training)
    return torch.empty(0) if features is None else features


def _resized(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return images (N, C, H, W) resized with antialiasing."""
    if size is None or images.shape[2:] == size:
        return images
    resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return resized if images.is_floating_point() else resized.round().to(images.dtype)
