"""Images in memory, sorted by class, to draw episodes from."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.dataset import ImageDataset, Rows

__all__ = ["ClassPool"]

_CHUNK = 1024  # images read at a time


class ClassPool:
    """The images of some classes in one tensor, sorted by class.

    Args:
        images: (M, C, H, W) uint8.
        labels: (M,) int64, ascending.
        names: Names of the classes, in the order of the labels.

    Attributes:
        first: Row of the first image of each class, (K,).
        counts: Number of images of each class, (K,).
    """

    def __init__(self, images: Tensor, labels: Tensor, names: Sequence[str]) -> None:
        self.images = images.contiguous()
        self._array: NDArray[np.uint8] = self.images.numpy()
        self.names = list(names)
        self.counts: Rows = np.bincount(labels.numpy(), minlength=len(self.names)).astype(np.int64)
        self.first: Rows = np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)

    @classmethod
    def read(cls, datasets: Sequence[ImageDataset]) -> Self:
        """Read the labeled images of datasets with the same classes, and sort them by class."""
        labels = torch.cat([dataset.labels for dataset in datasets])
        order = torch.argsort(labels, stable=True)
        order = order[int((labels < 0).sum()) :]  # without unlabeled images
        target = torch.empty_like(order, dtype=torch.int64).new_full((len(labels),), -1)
        target[order] = torch.arange(len(order))
        images: Tensor | None = None
        start = 0
        for dataset in datasets:
            for begin in range(0, len(dataset), _CHUNK):
                positions = np.arange(begin, min(begin + _CHUNK, len(dataset)))
                part = dataset.read(dataset.rows[positions])["image"]
                if images is None:
                    images = torch.empty(len(order), *part.shape[1:], dtype=torch.uint8)
                rows = target[start + torch.from_numpy(positions)]
                images[rows[rows >= 0]] = part[rows >= 0]
            start += len(dataset)
        if images is None or len(order) == 0:
            raise ValueError("there are no labeled images to draw episodes from.")
        return cls(images, labels[order], datasets[0].class_names)

    def with_rotations(self) -> "ClassPool":
        """Return four times as many classes: the images rotated by 0, 90, 180 and 270 degrees."""
        rotated = [torch.rot90(self.images, quarter, (2, 3)) for quarter in range(4)]
        labels = np.repeat(np.arange(4 * len(self.names)), np.tile(self.counts, 4))
        names = [f"{name} ({90 * q} degrees)" if q else name for q in range(4) for name in self.names]
        return ClassPool(torch.cat(rotated), torch.from_numpy(labels), names)

    def take(self, rows: Rows) -> Tensor:
        """Return the images of these rows."""
        return torch.from_numpy(self._array.take(rows, axis=0, mode="clip"))  # faster than torch for few rows

    def subset(self, classes: Rows) -> "ClassPool":
        """Return the images of some classes, renumbered in the given order."""
        rows = np.concatenate([np.arange(self.first[c], self.first[c] + self.counts[c]) for c in classes])
        labels = np.repeat(np.arange(len(classes)), self.counts[classes])
        images = self.images.index_select(0, torch.from_numpy(rows))
        return ClassPool(images, torch.from_numpy(labels), [self.names[c] for c in classes])
