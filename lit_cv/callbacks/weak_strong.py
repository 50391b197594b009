"""Weak and strong views of target images, for self-training."""

from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from lit_cv.augment import Chain, build_operations, policy_operations
from lit_cv.callbacks.augmentation import image_size
from lit_cv.errors import OptionError

__all__ = ["WeakStrongAugmentation"]


class WeakStrongAugmentation(L.Callback):
    """Gives a teacher an easy view of each target image, and the network that learns from it a hard one.

    Of a training batch of both domains it replaces the target's `image` by a weak view and adds a strong one of the
    same image as `strong` (Sohn et al. 2020, "FixMatch"); source images, whose labels hold anyway, become strong
    views. It works on the whole batch on the device, with a draw of its own for each image, from torch's default
    generator, which the module seeds at each step.

    Args:
        weak: Operations of the weak view, a list as for `Augmentation` or the name of a policy; an empty list leaves
            the images as they are.
        strong: Operations of the strong view, likewise.
        source: Which of them the source's images go through.

    Raises:
        TypeError: In training, if a batch has no `source` and `target` with images.
        ValueError: If a policy, an operation or an argument does not exist, or the views differ in size.
    """

    changes_images = True  # hence features of images cannot be kept

    def __init__(
        self,
        weak: str | list[str | dict[str, Any]] = "small_images",
        strong: str | list[str | dict[str, Any]] = "small_images_strong",
        source: Literal["weak", "strong"] = "strong",
    ) -> None:
        if source not in ("weak", "strong"):
            raise OptionError(self, "source", source, "give 'weak' or 'strong'")
        self.chains = {name: _build(given) for name, given in (("weak", weak), ("strong", strong))}
        self.source = source

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Crop to the image size of the data where operations give none."""
        for chain in self.chains.values():
            chain.crop_to(image_size(trainer))

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Make the views."""
        parts = [batch.get(domain) if isinstance(batch, dict) else None for domain in ("source", "target")]
        if not all(isinstance(part, dict) and isinstance(part.get("image"), Tensor) for part in parts):
            raise TypeError(
                "WeakStrongAugmentation needs batches with images of a `source` and a `target`: take "
                "DomainAdaptationDataModule, or the callback Augmentation."
            )
        source, target = batch["source"], batch["target"]
        source["image"] = self.chains[self.source](source["image"])
        strong = self.chains["strong"](target["image"])
        target["image"], target["strong"] = self.chains["weak"](target["image"]), strong
        if source["image"].shape[2:] != strong.shape[2:]:
            raise ValueError(
                f"source images leave with the size {tuple(source['image'].shape[2:])}, strong views of the target "
                f"with {tuple(strong.shape[2:])}: give all views the same size."
            )


def _build(given: str | list[str | dict[str, Any]]) -> Chain:
    return build_operations(policy_operations(given) if isinstance(given, str) else given)
