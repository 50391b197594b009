"""Weak and strong views of images without labels, for self-training and semi-supervised learning."""

from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from lit_cv.augment import Chain, build_operations, policy_operations
from lit_cv.callbacks.augmentation import image_size
from lit_cv.errors import OptionError
from lit_cv.ignore_index import unlabeled_rows

__all__ = ["WeakStrongAugmentation"]


class WeakStrongAugmentation(L.Callback):
    """Makes a weak view of each unlabeled image to predict its label from, and a strong view to learn it from.

    In a batch with `image` and `label`, it replaces all images by weak views, and adds strong views of the images
    without a label (-1), in their order, as `strong` (M, C, H, W) (Sohn et al. 2020, "FixMatch"). In a batch of two
    domains, it replaces the target's `image` by a weak view, adds a strong view of the same image as `strong`, and
    augments the source's images. It processes each batch on the device, with a separate random draw for each image.
    Random numbers come from torch's default generator, which the module seeds at each step.

    Args:
        weak: Operations of the weak view, as a list in the format of `Augmentation` or the name of a policy; an empty
            list leaves the images unchanged.
        strong: Operations of the strong view, in the same format.
        source: Which of the two is applied to labeled images (in domain adaptation, source images): `weak` or
            `strong`. `None` applies `weak`, in domain adaptation `strong`.

    Raises:
        TypeError: In training, if a batch holds neither `image` and `label` nor a `source` and a `target`.
        ValueError: If a policy, an operation or an argument does not exist, or the views differ in size.
    """

    changes_images = True  # so features cannot be cached

    def __init__(
        self,
        weak: str | list[str | dict[str, Any]] = "small_images",
        strong: str | list[str | dict[str, Any]] = "small_images_strong",
        source: Literal["weak", "strong"] | None = None,
    ) -> None:
        if source not in ("weak", "strong", None):
            raise OptionError(self, "source", source, "must be 'weak', 'strong' or null")
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
        if (
            isinstance(batch, dict)
            and isinstance(batch.get("image"), Tensor)
            and isinstance(batch.get("label"), Tensor)
        ):
            self._view_unlabeled(batch)
            return
        parts = [batch.get(domain) if isinstance(batch, dict) else None for domain in ("source", "target")]
        if not all(isinstance(part, dict) and isinstance(part.get("image"), Tensor) for part in parts):
            raise TypeError(
                "the batch has neither an `image` and a `label` nor images of a `source` and a `target`, which "
                "WeakStrongAugmentation needs: use a DataModule of images, or the callback Augmentation instead."
            )
        source, target = batch["source"], batch["target"]
        source["image"] = self.chains[self.source or "strong"](source["image"])
        strong = self.chains["strong"](target["image"])
        target["image"], target["strong"] = self.chains["weak"](target["image"]), strong
        _check_sizes(source["image"], strong)

    def _view_unlabeled(self, batch: dict[str, Any]) -> None:
        images, unlabeled = batch["image"], unlabeled_rows(batch["label"])
        strong = self.chains["strong"](images[unlabeled])
        if self.source == "strong":
            weak = self.chains["weak"](images[unlabeled])
            views = weak.new_empty(len(images), *weak.shape[1:])
            labeled = self.chains["strong"](images[~unlabeled])
            _check_sizes(labeled, weak)
            views[unlabeled], views[~unlabeled] = weak, labeled.to(weak.dtype)
        else:
            views = self.chains["weak"](images)
        _check_sizes(views, strong)
        batch["image"], batch["strong"] = views, strong


def _check_sizes(images: Tensor, strong: Tensor) -> None:
    if images.shape[2:] != strong.shape[2:]:
        raise ValueError(
            f"labeled images and weak views have the size {tuple(images.shape[2:])}, strong views "
            f"{tuple(strong.shape[2:])}: all views must have the same size. Change the `size` of a crop."
        )


def _build(operations: str | list[str | dict[str, Any]]) -> Chain:
    return build_operations(policy_operations(operations) if isinstance(operations, str) else operations)
