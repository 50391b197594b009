"""Generated images of shapes, with labels, boxes and masks, in four domains."""

from typing import Any, Literal, get_args

import numpy as np
import torch

from datamodules.base import BaseDataModule, Split
from datamodules.checks import check
from datamodules.dataset import ImageDataset, Rows
from datamodules.memory import channel_statistics
from datamodules.shape_drawing import draw_shapes
from datamodules.shape_scenes import CLASSES, DOMAINS, Domain, draw_scenes, main_classes
from lit_cv.contracts import Batch

__all__ = ["ShapesDataModule", "ShapesDataset"]

_MAX_CACHED = 1 << 30  # bytes of drawn images that are kept in memory
_SAMPLE = 512  # images to estimate mean and standard deviation from
_SMALLEST = 16  # pixels at which the smallest shapes are still distinguishable

Targets = Literal["label", "boxes", "mask", "all", "instances"]


class ShapesDataset(ImageDataset):
    """Generated images: image i is a function of (seed, i, domain) and is drawn when it is first read.

    Args:
        num_images: Number of images.
        image_size: Side in pixels.
        domain: Style of the images.
        shapes_per_image: Shapes in an image, from one to this many.
        targets: Targets in a batch besides the label.
        seed: Seed of the dataset.
    """

    def __init__(
        self, num_images: int, image_size: int, domain: Domain, shapes_per_image: int, targets: Targets, seed: int
    ) -> None:
        super().__init__(main_classes(np.arange(num_images), seed, domain), CLASSES)
        self.image_size, self.domain, self.shapes, self.targets = image_size, domain, shapes_per_image, targets
        self.seed = seed
        bytes_per_pixel = 5 if targets == "instances" else 4
        self.in_memory = num_images * bytes_per_pixel * image_size**2 <= _MAX_CACHED
        self._drawn = np.zeros(num_images, dtype=bool)
        self._cache: dict[str, Any] = {}  # shared by all subsets

    def read(self, rows: Rows) -> Batch:
        """Return the images of these rows with their targets."""
        drawn = self._take(rows) if self.in_memory else self._draw(rows)
        batch: Batch = {"image": drawn["image"]}
        if self.targets in ("mask", "all"):
            batch["mask"] = drawn["mask"].long()
        if self.targets in ("boxes", "all", "instances"):
            exists = drawn["box_labels"] >= 0
            batch["boxes"] = [boxes[keep] for boxes, keep in zip(drawn["boxes"], exists, strict=True)]
            batch["box_labels"] = [labels[keep] for labels, keep in zip(drawn["box_labels"], exists, strict=True)]
        if self.targets == "instances":
            numbers = [keep.nonzero()[:, 0] + 1 for keep in exists]
            batch["masks"] = [owner == n[:, None, None] for owner, n in zip(drawn["owner"], numbers, strict=True)]
        return batch

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel in [0, 1] units, estimated from the first images."""
        return channel_statistics(self.read(self.rows[:_SAMPLE])["image"].numpy())

    def _draw(self, rows: Rows) -> dict[str, torch.Tensor]:
        drawn = draw_shapes(draw_scenes(rows, self.seed, self.domain, self.shapes), self.image_size, self.domain)
        if self.targets != "instances":
            del drawn["owner"]
        return drawn

    def _take(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Return the images, drawing only those that are not cached."""
        missing = np.unique(rows[~self._drawn[rows]])
        if len(missing):
            for name, values in self._draw(missing).items():
                if name not in self._cache:
                    shape = (len(self._drawn), *values.shape[1:])
                    self._cache[name] = np.empty(shape, dtype=values.numpy().dtype)
                self._cache[name][missing] = values.numpy()
            self._drawn[missing] = True
        return {name: torch.from_numpy(cached.take(rows, axis=0, mode="clip")) for name, cached in self._cache.items()}


class ShapesDataModule(BaseDataModule):
    """Generated images of 8 classes of shapes with any color, size, position, rotation and background.

    Nothing is downloaded or stored. The label is the class of the largest shape, which is on top. A tenth of the images
    is the test split.

    Args:
        image_size: Side in pixels, at least 16.
        num_images: Number of images over all splits.
        domain: `filled` shapes; only `outlined`; shapes and background `textured` with stripes or checks; or
            `noisy`, filled shapes under noise.
        shapes_per_image: Maximum number of shapes in an image; at least one.
        targets: Targets in a batch besides `image` and `label`: `boxes` adds `boxes` and `box_labels`, lists of
            (n, 4) corners in pixels and (n,) classes; `mask` adds (N, H, W) with 0 for the background and the class
            plus 1 otherwise; `all` adds both; `instances` adds boxes and `masks`, a list of (n, H, W) bool with the
            visible pixels of each shape.
        seed: Seed of the images.
        **kwargs: Arguments of `BaseDataModule`.

    Example:
        >>> data = ShapesDataModule(image_size=32, num_images=100, shapes_per_image=3, targets="all", batch_size=8)
        >>> data.setup()
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["mask"].shape, batch["boxes"][0].shape[1]
        (torch.Size([8, 3, 32, 32]), torch.Size([8, 32, 32]), 4)
    """

    def __init__(
        self,
        image_size: int = 64,
        num_images: int = 10_000,
        domain: Domain = "filled",
        shapes_per_image: int = 1,
        targets: Targets = "label",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check(self, "image_size", image_size, image_size >= _SMALLEST, f"at least {_SMALLEST}")
        check(self, "num_images", num_images, num_images >= 10, "at least 10")
        check(self, "domain", domain, domain in DOMAINS, f"one of {', '.join(DOMAINS)}")
        check(self, "shapes_per_image", shapes_per_image, 1 <= shapes_per_image <= 8, "a number from 1 to 8")
        check(self, "targets", targets, targets in get_args(Targets), f"one of {', '.join(get_args(Targets))}")
        check(self, "seed", seed, seed >= 0, "at least 0")
        self._all: ShapesDataset | None = None
        self.box_classes = list(CLASSES) if targets in ("boxes", "all", "instances") else []
        self.mask_classes = ["background", *CLASSES] if targets in ("mask", "all") else []

    def load(self, split: Split) -> ShapesDataset | None:
        """Return the training or test images."""
        h = self.hparams
        if self._all is None:
            names = ("num_images", "image_size", "domain", "shapes_per_image", "targets", "seed")
            self._all = ShapesDataset(**{name: h[name] for name in names})
        first_test = h["num_images"] - h["num_images"] // 10
        parts = {"train": range(first_test), "test": range(first_test, h["num_images"])}
        return self._all.subset(parts[split]) if split in parts else None
