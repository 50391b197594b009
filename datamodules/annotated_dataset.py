"""Images with boxes and masks, of different sizes, fetched a batch at a time."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.balance import rarest_classes
from datamodules.cache import cached_arrays
from datamodules.dataset import ImageDataset, Rows
from datamodules.decoding import ValueRange
from datamodules.images import read_whole
from datamodules.mapped import prefetch, stays_in_memory
from datamodules.separation import FileStates, file_states
from lit_cv.annotations import DRAWING, AnnotatedImage, AnnotationSet, MaskCode, draw_classes, load_mask
from lit_cv.annotations.rle import outline_mask
from lit_cv.contracts import Batch
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["AnnotatedDataset", "letterbox_size"]

_STEP = 32  # sides are rounded up to multiples of it, as feature pyramids require

Size = tuple[int, int]


def letterbox_size(size: Size, canvas: Size | None) -> Size:
    """Return height and width of an image fitted into a canvas, keeping its aspect ratio.

    Example:
        >>> letterbox_size((480, 640), (320, 320))
        (240, 320)
    """
    if canvas is None:
        return size
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (max(1, min(limit, round(side * scale))) for side, limit in zip(size, canvas, strict=True))
    return height, width


class AnnotatedDataset(ImageDataset):
    """Annotated images, fitted into one size or kept at their sizes, padded at the right and at the bottom.

    A batch has `image` (N, C, H, W) uint8, 0 in the padding; `size` (N, 2) int64, height and width without padding;
    `scale` (N, 2) float32, y and x: pixels of the batch's image per pixel of the file; and `label` (N,) int64, -1 if
    unknown. If annotated, it has `boxes`, a list of (k, 4) float32 left, top, right, bottom in pixels of the batch's
    image; `box_labels`, a list of (k,) int64; `iscrowd`, a list of (k,) bool, if any split has crowds; `masks`, a list
    of (k, H, W) bool, empty for an object without an outline; and `mask` (N, H, W) int64, 255 in the padding and where
    unknown.

    Args:
        annotations: The images with their sizes and objects.
        canvas: Height and width of the batch's images; `None` keeps their sizes and pads to the largest in a batch.
        channels: 3 for color, 1 for gray.
        boxes: Whether batches have boxes.
        mask: Whether batches have masks.
        crowds: Whether batches have `iscrowd`.
        labels: Image-level classes, (N,) int64, -1 if unknown; `None` for none.
        class_names: Names of these classes.
        value_range: See `read_image`.
        instances: Whether batches have a mask of each object, besides its box.
    """

    has_names = True

    def __init__(
        self,
        annotations: AnnotationSet,
        canvas: Size | None = None,
        channels: Literal[1, 3] = 3,
        boxes: bool = True,
        mask: bool = False,
        crowds: bool = False,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        value_range: ValueRange | None = None,
        instances: bool = False,
    ) -> None:
        super().__init__(torch.full((len(annotations.images),), -1) if labels is None else labels, class_names)
        self.annotations = annotations
        self.root = annotations.folder
        self.canvas = canvas
        self.channels: Literal[1, 3] = channels
        self.value_range = value_range
        self.has_boxes, self.has_mask, self.has_crowds, self.has_instances = boxes, mask, crowds, instances
        images = annotations.images
        self.names = [image.name for image in images]
        self.sizes = np.array([(i.height, i.width) for i in images], dtype=np.int64).reshape(-1, 2)
        fitted = [letterbox_size((i.height, i.width), canvas) for i in images]
        self.fitted = np.array(fitted, dtype=np.int64).reshape(-1, 2)
        # One array for all objects, since a list per image would be copied into every worker process.
        objects = [item for image in images for item in image.objects]
        self._starts = np.cumsum([0, *(len(image.objects) for image in images)], dtype=np.int64)
        self._boxes = torch.tensor([item.box for item in objects], dtype=torch.float32).reshape(-1, 4)
        self._labels = torch.tensor([item.category for item in objects], dtype=torch.int64)
        self._crowd = torch.tensor([item.crowd for item in objects], dtype=torch.bool)
        self._annotated = torch.zeros(len(images), dtype=torch.int64)
        self._draws_masks = mask and not any(image.mask for image in images)
        self._decoded: _Decoded | None = None
        self._states: list[FileStates] = []  # of all rows of the source, shared by all subsets
        self._mask_values: Tensor | None = None  # new numbers of the values in masks

    @property
    def strata(self) -> Tensor:
        """0 for images with annotations, -1 for images with hidden annotations."""
        return self._annotated[torch.from_numpy(self.rows)]

    def hide_labels(self, kept: Rows) -> Self:
        """Return all images, with annotations hidden except at the positions `kept`."""
        part = super().hide_labels(kept)
        part._annotated = self._annotated.clone()
        hidden = np.setdiff1d(np.arange(len(self)), kept)
        part._annotated[torch.from_numpy(self.rows[hidden])] = -1
        return part

    def renumbered(self, attribute: str, numbers: Sequence[int], names: Sequence[str]) -> Self:
        """Return the images with renumbered image, box or pixel classes."""
        if attribute not in ("box_classes", "mask_classes"):
            return super().renumbered(attribute, numbers, names)
        part = copy.copy(self)
        if attribute == "box_classes":
            part._labels = torch.tensor(numbers)[self._labels]
        else:  # values without a name are kept
            values = torch.arange(IGNORE_INDEX + 1)
            values[: len(numbers)] = torch.tensor(numbers)
            part._mask_values = values if self._mask_values is None else values[self._mask_values]
        return part

    def sampled_classes(self) -> Tensor:
        """Return the class of each image, or without image-level classes the rarest class of its boxes; -1 for none."""
        if self.class_names:
            return super().sampled_classes()
        present = torch.zeros(len(self), len(self.annotations.categories), dtype=torch.bool)
        for image, row in enumerate(self.rows):
            present[image, self._labels[self._objects(row)]] = True
        return rarest_classes(present)

    def class_counts(self, classes: int, crowds: bool = True) -> Tensor:
        """Return the number of boxes of each class, (classes,) int64.

        Args:
            classes: Number of classes.
            crowds: Whether to count crowds.
        """
        chosen = torch.zeros(len(self._labels), dtype=torch.bool)
        for row in self.rows:
            chosen[self._objects(row)] = True
        return torch.bincount(self._labels[chosen if crowds else chosen & ~self._crowd], minlength=classes)

    def pixel_counts(self, classes: int) -> Tensor:
        """Return the number of mask pixels of each class, (classes,) int64."""
        values = torch.zeros(IGNORE_INDEX + 1, dtype=torch.int64)
        for row in self.rows.tolist():
            if self._annotated[row] >= 0:
                values += torch.bincount(self._mask(row).flatten(), minlength=len(values))
        if self._mask_values is not None:
            values = torch.zeros_like(values).index_add_(0, self._mask_values, values)
        return values[:classes]

    def sample_name(self, index: int) -> str:
        """Return the path of a sample."""
        return self.names[int(self.rows[index])]

    def files(self) -> tuple[Path, list[str]]:
        """Return the folder and the relative paths of the samples."""
        return self.root, [self.names[row] for row in self.rows]

    def file_states(self) -> FileStates:
        """Return identity and size of the file of each sample."""
        if not self._states:
            self._states.append(file_states(self.root, self.names))
        return self._states[0].take(self.rows)

    def annotation(self, index: int) -> AnnotatedImage:
        """Return the annotations of a sample."""
        return self.annotations.images[int(self.rows[index])]

    def read(self, rows: Rows) -> Batch:
        """Return the images of these rows with their annotations."""
        if self._decoded is not None and not self.in_memory:
            self._decoded.prefetch(rows)
        height, width = self.canvas or (int(-(-side // _STEP) * _STEP) for side in self.fitted[rows].max(0))
        images = torch.zeros(len(rows), self.channels, height, width, dtype=torch.uint8)
        mask = torch.full((len(rows), height, width), IGNORE_INDEX, dtype=torch.int64) if self.has_mask else None
        for position, row in enumerate(rows):
            y, x = self.fitted[row]
            images[position, :, :y, :x] = self._image(int(row))
            if mask is not None and self._annotated[row] >= 0:
                mask[position, :y, :x] = self._mask(int(row))
        if mask is not None and self._mask_values is not None:
            mask = self._mask_values[mask]
        scale = torch.from_numpy((self.fitted[rows] / self.sizes[rows]).astype(np.float32))
        batch: Batch = {"image": images, "size": torch.from_numpy(self.fitted[rows]), "scale": scale}
        if self.has_boxes:
            self._add_boxes(batch, rows, scale)
        if self.has_instances:
            batch["masks"] = [self._object_masks(int(row), (height, width)) for row in rows]
        if mask is not None:
            batch["mask"] = mask
        return batch

    def _objects(self, row: int) -> slice:
        hidden = self._annotated[row] < 0
        return slice(0, 0) if hidden else slice(int(self._starts[row]), int(self._starts[row + 1]))

    def _add_boxes(self, batch: Batch, rows: Rows, scale: Tensor) -> None:
        objects = [self._objects(row) for row in rows]
        limits = batch["size"].flip(1).repeat(1, 2).float()
        corners = [self._boxes[part] * xy.repeat(2) for part, xy in zip(objects, scale.flip(1), strict=True)]
        batch["boxes"] = [boxes.clamp(min=0).minimum(limit) for boxes, limit in zip(corners, limits, strict=True)]
        batch["box_labels"] = [self._labels[part] for part in objects]
        if self.has_crowds:
            batch["iscrowd"] = [self._crowd[part] for part in objects]

    def _object_masks(self, row: int, canvas: Size) -> Tensor:
        """Return the pixels of each object of a row on a canvas, (k, H, W) bool."""
        image, (height, width) = self.annotations.images[row], self._fitted_size(row)
        objects = image.objects if self._annotated[row] >= 0 else []
        masks = torch.zeros(len(objects), *canvas, dtype=torch.bool)
        for mask, item in zip(masks, objects, strict=True):
            if item.segmentation:
                drawn = outline_mask(item.segmentation, (image.height, image.width), (height, width))
                mask[:height, :width] = torch.from_numpy(drawn)
        return masks

    def _image(self, row: int) -> Tensor:
        if self._decoded is not None:
            return torch.from_numpy(self._decoded.image(row))
        height, width = self.sizes[row].tolist()
        path, size = self.root / self.names[row], self._fitted_size(row)
        return read_whole(path, size, self.channels, (height, width), self.value_range)

    def _mask(self, row: int) -> Tensor:
        if self._decoded is not None:
            return torch.from_numpy(self._decoded.mask(row))
        image, size = self.annotations.images[row], self._fitted_size(row)
        if image.mask is not None:
            return torch.from_numpy(load_mask(image.mask, size, self.annotations.mask_code))
        if self._draws_masks:
            drawn = draw_classes(image, size)
            return torch.from_numpy(
                drawn if self.annotations.mask_code is None else self.annotations.mask_code.apply(drawn)
            )
        return torch.full(size, IGNORE_INDEX, dtype=torch.uint8)

    def _fitted_size(self, row: int) -> Size:
        height, width = self.fitted[row].tolist()
        return height, width

    def decoded(self, name: str) -> Self:
        """Return the same samples, with images and masks decoded once into a cache file beside them.

        Args:
            name: Prefix of the cache file's name.
        """
        part = copy.copy(self)
        part._decoded = _Decoded(self, name)
        part.in_memory = stays_in_memory(part._decoded.nbytes)
        return part


class _Decoded:
    """The images and masks of a dataset, decoded and resized, in memory-mapped files."""

    def __init__(self, dataset: AnnotatedDataset, name: str) -> None:
        rows = dataset.rows.tolist()
        self._position = {row: position for position, row in enumerate(rows)}
        sizes = [tuple(dataset.fitted[row].tolist()) for row in rows]
        self._shapes: list[tuple[int, ...]] = [(dataset.channels, *size) for size in sizes]
        files = [[dataset.names[row]] for row in rows]
        self._images, self._image_starts = cached_arrays(
            dataset.root,
            files,
            self._shapes,
            lambda i: dataset._image(rows[i]).numpy(),
            f"{name}-images",
            dataset.value_range,
        )
        self.nbytes = self._images.nbytes
        if dataset.has_mask:
            self._mask_shapes: list[tuple[int, ...]] = list(sizes)
            sources = [dataset.annotations.images[row] for row in rows]
            masks = [[str(path.resolve())] if (path := image.mask or image.source) else [] for image in sources]
            self._masks, self._mask_starts = cached_arrays(
                dataset.root,
                masks,
                self._mask_shapes,
                lambda i: dataset._mask(rows[i]).numpy(),
                f"{name}-masks",
                [
                    DRAWING,
                    dataset.annotations.categories,
                    [image.name for image in sources],
                    _key(dataset.annotations.mask_code),
                ],
                tolerance=0,  # class numbers must match exactly
            )
            self.nbytes += self._masks.nbytes

    def prefetch(self, rows: Rows) -> None:
        """Prefetch the images and masks of these rows from the disk."""
        at = np.array([self._position[row] for row in rows.tolist()])
        prefetch(self._images, self._image_starts[at], self._image_starts[at + 1] - self._image_starts[at])
        if hasattr(self, "_masks"):
            prefetch(self._masks, self._mask_starts[at], self._mask_starts[at + 1] - self._mask_starts[at])

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the image of a row, (C, h, w)."""
        return self._take(self._images, self._image_starts, row, self._shapes)

    def mask(self, row: int) -> NDArray[np.uint8]:
        """Return the mask of a row, (h, w)."""
        return self._take(self._masks, self._mask_starts, row, self._mask_shapes)

    def _take(
        self, values: NDArray[np.uint8], starts: NDArray[np.int64], row: int, shapes: list[tuple[int, ...]]
    ) -> NDArray[np.uint8]:
        position = self._position[row]
        # a copy, as torch requires writable memory
        return np.array(values[starts[position] : starts[position + 1]]).reshape(shapes[position])


def _key(code: MaskCode | None) -> list[Any]:
    return [] if code is None else [code.names, sorted(code.classes.items()), code.colors]
