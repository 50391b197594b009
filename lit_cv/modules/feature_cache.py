"""Caching of the features that a frozen network computes from images."""

import logging
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_cv.contracts import as_callback, as_data, data_of
from lit_cv.errors import TRAINER, VoidOptionError, argument, setting
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.nn import resize_images

__all__ = ["cache_features", "callbacks_that_change_images", "check_caching", "check_extraction", "extract_features"]

log = logging.getLogger("lit_cv")


def callbacks_that_change_images(trainer: L.Trainer) -> list[str]:
    """Return the class names of callbacks that change images between steps, so that features cannot be cached."""
    names = [type(c).__name__ for c in trainer.callbacks if as_callback(c).changes_images]  # type: ignore[attr-defined]
    return list(dict.fromkeys(names))


def check_caching(trainer: L.Trainer) -> None:
    """Raise an error if features cannot be cached because images change between steps or have no index.

    Raises:
        ValueError: If a callback changes the images, or the DataModule does not support caching.
    """
    if changing := callbacks_that_change_images(trainer):
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


def cache_features(module: ExtensionPoints, network: nn.Module | None = None) -> dict[str, Tensor]:
    """Compute the features of all training and validation images once.

    Args:
        module: The module.
        network: As for `extract_features`.

    Returns:
        Features by stage (`train`, `val`), (N, num_features); the `index` of a batch selects its rows.
    """
    data = data_of(module.trainer)
    training = data.unlabeled_dataset if module.uses_unlabeled else data.train_dataset
    datasets = {"train": training, "val": data.val_dataset}
    start = time.monotonic()
    features = {stage: extract_features(module, data, network) for stage, data in datasets.items() if data is not None}
    counts = " and ".join(f"{len(value):,} {stage}" for stage, value in features.items())
    log.info("Features of %s images computed in %.1f s and cached for all epochs.", counts, time.monotonic() - start)
    return features


@torch.no_grad()
def extract_features(module: ExtensionPoints, dataset: Any, network: nn.Module | None = None) -> Tensor:
    """Return the features (N, num_features) of all images of a dataset, with the network in eval mode.

    Args:
        module: The module.
        dataset: The dataset.
        network: Network that takes images as they come from the loader; `None` takes the module's backbone, for which
            training images that are larger, to be cropped by an augmentation, are resized to the evaluation size.
    """
    from rich.console import Console
    from rich.progress import track

    datamodule: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    loader = datamodule.ordered_loader(dataset)
    console = Console(stderr=True)
    batches = track(loader, "Computing features", console=console, transient=True, disable=not console.is_terminal)
    features: Tensor | None = None
    size = as_data(datamodule).image_size if network is None else None
    network = module.backbone if network is None else network
    network.eval()
    for batch in batches:
        with module.trainer.precision_plugin.forward_context():
            batch_features = network(resize_images(batch["image"].to(module.device, non_blocking=True), size))
        if features is None:
            features = batch_features.new_empty(len(dataset), batch_features.shape[1])
        features[batch["index"].to(module.device)] = batch_features
    module.train(module.training)
    return torch.empty(0) if features is None else features
