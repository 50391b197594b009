"""What every set of images here is: fetched a batch at a time, with labels apart from the images."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.balance import rarest_classes
from datamodules.loader import Batch
from datamodules.separation import FileStates, first_positions

__all__ = ["ImageDataset", "as_labels"]

Rows = NDArray[np.int64]


def as_labels(labels: Any) -> Tensor:
    """Return labels as int64 (N,), or as float32 (N, K) of 0 and 1 for several labels an image.

    Args:
        labels: A tensor, array or nested list of them.
    """
    tensor = torch.as_tensor(np.asarray(labels))
    return tensor.to(torch.float32) if tensor.ndim == 2 else tensor.to(torch.int64)


class ImageDataset(Dataset[Batch], ABC):
    """Images with labels, fetched a batch at a time.

    A subclass implements `read`, and may give the images names. Subsets share the images: they are a list of rows.

    Args:
        labels: (N,) int64, -1 where unlabeled; or (N, K) float32 of 0 and 1, a row of -1 where unlabeled.
        class_names: Names of the classes.

    Attributes:
        labels: Labels in the order of the samples.
        rows: Where the samples stand in the source.
        soft_labels: Whether (N, K) labels are shares of one label, whose rows sum to 1, not several labels.
        in_memory: Whether reading is so cheap that worker processes would cost more than they give.
        has_names: Whether `sample_name` names an image wherever it stands in the source.
    """

    in_memory: bool = False
    has_names: bool = False
    soft_labels: bool = False
    _reads_images: bool = True

    def __init__(self, labels: Tensor, class_names: Sequence[str] = ()) -> None:
        self.labels = labels
        self.class_names = list(class_names)
        self.rows: Rows = np.arange(len(labels))

    @abstractmethod
    def read(self, rows: Rows) -> Batch:
        """Return `image` (N, C, H, W) uint8 of these rows of the source, and what else there is but the label."""

    def sample_name(self, index: int) -> str:
        """Return the name of a sample, for reports: here its row in the source."""
        return str(int(self.rows[index]))

    def files(self) -> tuple[Path, list[str]] | None:
        """Return the folder and the paths below it of the samples; `None` where not each has a file."""
        return None

    def file_states(self) -> FileStates | None:
        """Return which file each sample is, and its size; `None` where not each has a file."""
        return None

    def groups(self) -> list[str] | None:
        """Return which samples are one file under several names, the same text for these; `None` where none are."""
        if (states := self.file_states()) is None or len(np.unique(states.identity)) == len(self):
            return None
        return [str(position) for position in first_positions(states).tolist()]

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and standard deviation of each channel in [0, 1] units, `None` where they take long."""
        return None

    @property
    def strata(self) -> Tensor:
        """What splits and choices of labels go by: the labels, or for other annotations 0, and -1 without any."""
        return self.hard_labels().labels

    def sampled_classes(self) -> Tensor:
        """Return the class that each sample counts as in balanced sampling, (N,) int64, -1 for none."""
        labels = self.hard_labels().labels
        return labels if labels.ndim == 1 else rarest_classes(labels > 0)

    def hard_labels(self) -> Self:
        """Return the samples with the likeliest class in place of soft labels; unchanged if they have none."""
        if not self.soft_labels:
            return self
        labels = torch.where(self.labels.amin(1) < 0, -1, self.labels.argmax(1))
        part = self.subset(range(len(self)), labels)
        part.soft_labels = False
        return part

    def hide_labels(self, kept: Rows) -> Self:
        """Return all samples, of which only those at the positions `kept` have their labels, the others -1."""
        hidden = torch.full_like(self.labels, -1)
        hidden[kept] = self.labels[kept]
        return self.subset(range(len(self)), hidden)

    def subset(self, positions: Rows | Tensor | Sequence[int], labels: Tensor | None = None) -> Self:
        """Return some of the samples, without copying images.

        Args:
            positions: Positions of the samples in this dataset.
            labels: Labels that take the place of their own.
        """
        chosen = np.asarray(positions, dtype=np.int64)
        part = copy.copy(self)
        part.rows = self.rows[chosen]
        part.labels = self.labels[torch.from_numpy(chosen)] if labels is None else labels
        return part

    def renumbered(self, attribute: str, numbers: Sequence[int], names: Sequence[str]) -> Self:
        """Return the samples with their classes numbered in another order, without copying images.

        Args:
            attribute: Which classes, by the DataModule's name of their list; here `class_names`.
            numbers: The new number of each class.
            names: The names in the new order.

        Raises:
            ValueError: If this set cannot renumber such classes.
        """
        if attribute != "class_names":
            raise ValueError(f"{type(self).__name__} cannot list its {attribute} in another order: {', '.join(names)}.")
        part = copy.copy(self)
        part.labels, part.class_names = _renumbered_labels(self.labels, torch.tensor(numbers)), list(names)
        return part

    def without_images(self) -> Self:
        """Return the samples with nothing but `label` and `index`, for who knows their images already."""
        part = copy.copy(self)
        part._reads_images, part.in_memory = False, True
        return part

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the batch of these samples, with `label` and their positions in this dataset as `index`."""
        positions = np.asarray(indices, dtype=np.int64)
        index = torch.from_numpy(positions)
        content = self.read(self.rows[positions]) if self._reads_images else {}
        return {**content, "label": self.labels.index_select(0, index), "index": index}

    def __getitem__(self, index: int) -> dict[str, Any]:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"sample {index} of a dataset of {size}")
        return {name: values[0] for name, values in self.__getitems__([index % size]).items()}


def _renumbered_labels(labels: Tensor, numbers: Tensor) -> Tensor:
    """Return labels, or columns of (N, K) labels, under new numbers; what is negative stays."""
    if labels.ndim == 2:
        return labels[:, torch.argsort(numbers)]
    return torch.where(labels >= 0, numbers[labels.clamp(min=0)], labels)
