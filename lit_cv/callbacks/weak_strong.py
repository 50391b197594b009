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
    """Replaces target images by weak views for a teacher, and adds strong views for the network that it teaches.

    In training batches of both domains, the target's `image` becomes a weak view, and a strong view of the same image
    is added as `strong` (Sohn et al. 2020, "FixMatch"). Source images become strong views, since their labels remain
    valid. It processes each batch on the device, with a separate random draw for each image. Random numbers come from
    torch's default generator, which the module seeds at each step.

    Args:
        weak: Operations of the weak view, as a list in the format of `Augmentation` or the name of a policy; an empty
            list leaves the images unchanged.
        strong: Operations of the strong view, in the same format.
        source: Which of the two is applied to source images: `weak` or `strong`.

    Raises:
        TypeError: In training, if a batch has no `source` and `target` with images.
        ValueError: If a policy, an operation or an argument does not exist, or the views differ in size.
    """

    changes_images = True  # so features cannot be cached

    def __init__(
        self,
        weak: str | list[str | dict[str, Any]] = "small_images",
        strong: str | list[str | dict[str, Any]] = "small_images_strong",
        source: Literal["weak", "strong"] = "strong",
    ) -> None:
        if source not in ("weak", "strong"):
            raise OptionError(self, "source", source, "must be 'weak' or 'strong'")
        self.chains = {name: _build(operations) for name, operations in (("weak", weak), ("strong", strong))}
        self.source = source

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set the crop size to the image size of the data, unless the crop has a size."""
        for chain in self.chains.values():
            chain.crop_to(image_size(trainer))

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Replace the images by views."""
        parts = [batch.get(domain) if isinstance(batch, dict) else None for domain in ("source", "target")]
        if not all(isinstance(part, dict) and isinstance(part.get("image"), Tensor) for part in parts):
            raise TypeError(
                "the batch has no images of a `source` and a `target`, which WeakStrongAugmentation needs: use "
                "DomainAdaptationDataModule, or the callback Augmentation instead."
            )
        source, target = batch["source"], batch["target"]
        source["image"] = self.chains[self.source](source["image"])
        strong = self.chains["strong"](target["image"])
        target["image"], target["strong"] = self.chains["weak"](target["image"]), strong
        if source["image"].shape[2:] != strong.shape[2:]:
            raise ValueError(
                f"source images have the size {tuple(source['image'].shape[2:])} after augmentation, strong views of "
                f"the target {tuple(strong.shape[2:])}: all views must have the same size. Change the `size` of a crop."
            )


def _build(operations: str | list[str | dict[str, Any]]) -> Chain:
    return build_operations(policy_operations(operations) if isinstance(operations, str) else operations)
