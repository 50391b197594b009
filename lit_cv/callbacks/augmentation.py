"""Augmentation of whole training batches, on the device."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.augment import Chain, build_operations, policy_operations
from lit_cv.contracts import Data, data_of
from lit_cv.errors import DATA, argument
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["Augmentation", "image_batches", "image_size", "unviewed_batches"]

log = logging.getLogger("lit_cv")


class Augmentation(L.Callback):
    """Changes every training image at random, each with a draw of its own.

    It works on the whole batch after its transfer to the device, in training only, and draws from torch's
    default generator, which the module seeds at each step: a resumed run sees the same pictures. Masks and
    boxes of the batch move along with the pixels; `size` and `scale` of padded images no longer hold, and go.

    Give a policy by name (`small_images`, `photographs`, ...) or a list of operations:

        callbacks:
          - class_path: Augmentation
            init_args:
              operations:
                - {name: random_crop, padding: 4}
                - horizontal_flip
                - {name: color_jitter, brightness: 0.4}

    Args:
        policy: Name of a ready policy; `small_images` if no operations are given either.
        operations: Names, or dicts of a name and the operation's arguments, in order; `file.Class` names an operation
            of your own, see `lit_cv.augment.Operation`.
        size: Size in pixels of the images that leave the policy; None for the data's image size, to which the last crop
            of a list of operations goes, too, unless it has a size.
        mask_fill: Class that masks hold where pixels come from beyond the image; 255 is usually ignored.
        min_visible: Boxes of which a smaller fraction is left in the image are dropped.

    Raises:
        TypeError: In training, if a batch is no dict with "image".
        ValueError: If a policy, an operation or an argument does not exist.
    """

    changes_images = True  # hence features of images cannot be kept

    def __init__(
        self,
        policy: str | None = None,
        operations: list[str | dict[str, Any]] | None = None,
        size: int | None = None,
        mask_fill: int = IGNORE_INDEX,
        min_visible: float = 0.25,
    ) -> None:
        if operations is not None and (policy is not None or size is not None):
            raise ValueError("give Augmentation a policy (and its size) or a list of operations, not both.")
        if operations is None:
            operations = policy_operations(policy or "small_images", size)
        self.chain = build_operations(operations)
        self.mask_fill = mask_fill
        self.min_visible = min_visible
        self._compared = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Crop to the image size of the data, unless another one was given."""
        self.chain.crop_to(image_size(trainer))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Replace the batch's images, and those of the batches within it."""
        for part in unviewed_batches(batch, "Augmentation"):
            augment(self.chain, part, self.mask_fill, self.min_visible)
            if not self._compared and trainer is not None and trainer.is_global_zero:
                _compare_sizes(data_of(trainer), part["image"])
            self._compared = True


def image_size(trainer: L.Trainer) -> tuple[int, int] | None:
    """Return the height and width of the images that are evaluated, `None` where they are unknown or differ."""
    size = data_of(trainer).image_size
    return (size[0], size[1]) if size and all(size) else None


def _compare_sizes(data: Data, images: Tensor) -> None:
    """Say it where training sees images of another size than validation does."""
    size = data.image_size
    height, width = images.shape[-2:]
    if size and tuple(size) != (height, width):
        log.warning(
            "Training sees images of %d x %d pixels after Augmentation, validation of %d x %d: a network is best at "
            "about the size that it was trained at. Change the `size` of the crop, or %s, unless that is meant.",
            *(height, width, *size, argument("image_size", DATA)),
        )


@torch.no_grad()
def augment(chain: Chain, batch: dict[str, Any], mask_fill: int = IGNORE_INDEX, min_visible: float = 0.25) -> None:
    """Replace the images of a batch, and its masks and boxes if the chain moves pixels; `size` and `scale` go then."""
    images = batch["image"]
    if images.ndim == 5:  # episodes, of which each image gets a draw of its own
        flat = images.flatten(0, 1)
        batch["image"] = torch.unflatten(chain.apply(flat, chain.draw(flat)), 0, images.shape[:2])
        return
    params = chain.draw(images)
    batch["image"] = chain.apply(images, params)
    if not chain.moves_pixels:
        return
    for name in ("size", "scale"):  # what was padding may lie anywhere now
        batch.pop(name, None)
    if isinstance(batch.get("mask"), Tensor):
        batch["mask"] = chain.move_masks(batch["mask"], params, mask_fill)
    if isinstance(batch.get("boxes"), list):
        size = (images.shape[2], images.shape[3])
        batch["boxes"], kept = chain.move_boxes(batch["boxes"], params, size, min_visible)
        for name in ("box_labels", "iscrowd"):
            if name in batch:
                batch[name] = [values[keep] for values, keep in zip(batch[name], kept, strict=True)]


def image_batches(batch: Any, who: str) -> Iterator[dict[str, Any]]:
    """Yield the batch if it holds images, else those within it (such as the source and the target domain).

    Args:
        batch: What the module's training step would get.
        who: Callback that asks, for the message.

    Raises:
        TypeError: If no images are found.
    """
    parts = [batch] if _has_images(batch) else []
    if not parts and isinstance(batch, Mapping):
        parts = [part for part in batch.values() if _has_images(part)]
    if not parts:
        got = f"a dict of {sorted(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise TypeError(f"{who} needs batches that are dicts with the entry 'image', but got {got}.")
    yield from parts


def unviewed_batches(batch: Any, who: str) -> Iterator[dict[str, Any]]:
    """Yield the same for a callback that changes images, which must come before views are made of them.

    Raises:
        TypeError: If no images are found.
        ValueError: If there are views already.
    """
    for part in image_batches(batch, who):
        if "views" in part:
            raise ValueError(
                f"{who} comes after ContrastiveAugmentation, which has made its views of the images already: list it "
                "before, or give ContrastiveAugmentation the operations."
            )
        yield part


def _has_images(batch: Any) -> bool:
    return isinstance(batch, dict) and isinstance(batch.get("image"), Tensor)
