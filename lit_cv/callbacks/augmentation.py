"""Augmentation of training batches on the device."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.augment import Chain, build_operations, policy_operations
from lit_cv.augment.operation import Params
from lit_cv.contracts import Data, data_of
from lit_cv.errors import DATA, argument
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["Augmentation", "image_batches", "image_size", "unviewed_batches"]

log = logging.getLogger("lit_cv")


class Augmentation(L.Callback):
    """Augments each training image with its own random draw.

    It processes each training batch after the transfer to the device, in training only. Random numbers come from
    torch's default generator, which the module seeds at each step, so that a resumed run sees the same images. Masks
    and boxes are transformed along with the pixels. `size` and `scale` of padded images become invalid and are removed.

    Give a policy by name (`small_images`, `photographs`, ...) or a list of operations:

        callbacks:
          - class_path: Augmentation
            init_args:
              operations:
                - {name: random_crop, padding: 4}
                - horizontal_flip
                - {name: color_jitter, brightness: 0.4}

    Args:
        policy: Name of a predefined policy; `small_images` if `operations` is not set either.
        operations: List of operation names, or dicts with a name and the operation's arguments, applied in order. Use
            `file.Class` for a custom operation, see `lit_cv.augment.Operation`.
        size: Output size in pixels of the policy; None for the image size of the data. In a list of operations, the
            last crop also uses the image size of the data unless it has a size.
        mask_fill: Class that masks get for pixels from outside the image; 255 is usually ignored.
        min_visible: Boxes with less than this fraction of their area inside the image are dropped.

    Raises:
        TypeError: In training, if a batch is not a dict with "image".
        ValueError: If a policy, an operation or an argument does not exist.
    """

    changes_images = True  # so features cannot be cached

    def __init__(
        self,
        policy: str | None = None,
        operations: list[str | dict[str, Any]] | None = None,
        size: int | None = None,
        mask_fill: int = IGNORE_INDEX,
        min_visible: float = 0.25,
    ) -> None:
        if operations is not None and (policy is not None or size is not None):
            raise ValueError("policy (or size) and operations are both set for Augmentation: set only one of them.")
        if operations is None:
            operations = policy_operations(policy or "small_images", size)
        self.chain = build_operations(operations)
        self.mask_fill = mask_fill
        self.min_visible = min_visible
        self._compared = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set the crop size to the image size of the data, unless the crop has a size."""
        self.chain.crop_to(image_size(trainer))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Augment the images of the batch, or of the batches nested in it."""
        for part in unviewed_batches(batch, "Augmentation"):
            augment(self.chain, part, self.mask_fill, self.min_visible)
            if not self._compared and trainer is not None and trainer.is_global_zero:
                _compare_sizes(data_of(trainer), part["image"])
            self._compared = True


def image_size(trainer: L.Trainer) -> tuple[int, int] | None:
    """Return the height and width of the evaluation images, `None` if unknown or not fixed."""
    size = data_of(trainer).image_size
    return (size[0], size[1]) if size and all(size) else None


def _compare_sizes(data: Data, images: Tensor) -> None:
    """Warn if training images have another size than validation images."""
    size = data.image_size
    height, width = images.shape[-2:]
    if size and tuple(size) != (height, width):
        log.warning(
            "Training images have %d x %d pixels after Augmentation, validation images %d x %d: a network works best "
            "near its training size. Change the `size` of the crop or %s, unless this is intended.",
            *(height, width, *size, argument("image_size", DATA)),
        )


@torch.no_grad()
def augment(
    chain: Chain,
    batch: dict[str, Any],
    mask_fill: int = IGNORE_INDEX,
    min_visible: float = 0.25,
    params: Params | None = None,
) -> None:
    """Augment the images of a batch in place, by drawn parameters or else by new ones.

    If the chain moves pixels, masks and boxes are transformed as well, and `size` and `scale` are removed.
    """
    images = batch["image"]
    if images.ndim == 5:  # episodes: each image gets its own draw
        flat = images.flatten(0, 1)
        batch["image"] = torch.unflatten(chain.apply(flat, chain.draw(flat)), 0, images.shape[:2])
        return
    params = chain.draw(images) if params is None else params
    batch["image"] = chain.apply(images, params)
    if not chain.moves_pixels:
        return
    for name in ("size", "scale"):  # invalid once padding has moved
        batch.pop(name, None)
    if isinstance(batch.get("mask"), Tensor):
        batch["mask"] = chain.move_masks(batch["mask"], params, mask_fill)
    if isinstance(batch.get("boxes"), list):
        size = (images.shape[2], images.shape[3])
        batch["boxes"], kept = chain.move_boxes(batch["boxes"], params, size, min_visible)
        for name in ("box_labels", "iscrowd", "masks"):
            if name in batch:
                batch[name] = [values[keep] for values, keep in zip(batch[name], kept, strict=True)]
    if isinstance(batch.get("masks"), list):
        batch["masks"] = chain.move_object_masks(batch["masks"], params)


def image_batches(batch: Any, who: str) -> Iterator[dict[str, Any]]:
    """Yield the batch if it holds images, else the nested batches that do (such as source and target domain).

    Args:
        batch: Batch that the module's training step would get.
        who: Name of the calling callback, for the message.

    Raises:
        TypeError: If there are no images.
    """
    parts = [batch] if _has_images(batch) else []
    if not parts and isinstance(batch, Mapping):
        parts = [part for part in batch.values() if _has_images(part)]
    if not parts:
        got = f"a dict of {sorted(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise TypeError(f"{who} got {got}: batches must be dicts with the entry 'image'.")
    yield from parts


def unviewed_batches(batch: Any, who: str) -> Iterator[dict[str, Any]]:
    """Yield the same as `image_batches` for a callback that changes images, and check that no views exist yet.

    Raises:
        TypeError: If there are no images.
        ValueError: If ContrastiveAugmentation has already created views.
    """
    for part in image_batches(batch, who):
        if "views" in part:
            raise ValueError(
                f"{who} runs after ContrastiveAugmentation, which has already created its views: list {who} first, or "
                "pass its operations to ContrastiveAugmentation."
            )
        yield part


def _has_images(batch: Any) -> bool:
    return isinstance(batch, dict) and isinstance(batch.get("image"), Tensor)
