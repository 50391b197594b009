"""Base class of datasets, fetched one batch at a time, with labels separate from the images."""

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
from datamodules.separation import FileStates, first_positions
from lit_cv.contracts import Batch

__all__ = ["ImageDataset", "as_labels"]

Rows = NDArray[np.int64]


def as_labels(labels: Any) -> Tensor:
    """Return labels as int64 (N,), or as float32 (N, K) of 0 and 1 for multi-label data.

    Args:
        labels: Tensor, array or nested list of labels.
    """
    tensor = torch.as_tensor(np.asarray(labels))
    return tensor.to(torch.float32) if tensor.ndim == 2 else tensor.to(torch.int64)


class ImageDataset(Dataset[Batch], ABC):
    """Images with labels, fetched one batch at a time.

    A subclass implements `read`, and may name the images. Subsets share the images and store only row numbers.

    Args:
        labels: (N,) int64, -1 where unlabeled; or (N, K) float32 of 0 and 1, a row of -1 where unlabeled.
        class_names: Names of the classes.

    Attributes:
        labels: Labels in the order of the samples.
        rows: Rows of the samples in the source.
        soft_labels: Whether rows of (N, K) labels are class probabilities that sum to 1, not multiple labels.
        in_memory: Whether reading is so cheap that worker processes would only add overhead.
        has_names: Whether `sample_name` identifies an image independently of its row.
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
        """Return `image` (N, C, H, W) uint8 of these rows of the source, and all other entries except the label."""

    def sample_name(self, index: int) -> str:
        """Return the name of a sample for reports, here its row in the source."""
        return str(int(self.rows[index]))

    def files(self) -> tuple[Path, list[str]] | None:
        """Return the folder and the relative paths of the samples; `None` unless each has a file."""
        return None

    def file_states(self) -> FileStates | None:
        """Return identity and size of the file of each sample; `None` unless each has a file."""
        return None

    def groups(self) -> list[str] | None:
        """Return a group for each sample, the same for several names of one file; `None` if all files differ."""
        if (states := self.file_states()) is None or len(np.unique(states.identity)) == len(self):
            return None
        return [str(position) for position in first_positions(states).tolist()]

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and standard deviation of each channel in [0, 1] units, `None` if this would take long."""
        return None

    @property
    def strata(self) -> Tensor:
        """Strata for splits and label choices: the labels; for other annotations 0, or -1 without any."""
        return self.hard_labels().labels

    def sampled_classes(self) -> Tensor:
        """Return the class of each sample for balanced sampling, (N,) int64, -1 for none."""
        labels = self.hard_labels().labels
        return labels if labels.ndim == 1 else rarest_classes(labels > 0)

    def hard_labels(self) -> Self:
        """Return the samples with soft labels replaced by the most likely class; unchanged without soft labels."""
        if not self.soft_labels:
            return self
        labels = torch.where(self.labels.amin(1) < 0, -1, self.labels.argmax(1))
        part = self.subset(range(len(self)), labels)
        part.soft_labels = False
        return part

    def hide_labels(self, kept: Rows) -> Self:
        """Return all samples, with labels replaced by -1 except at the positions `kept`."""
        hidden = torch.full_like(self.labels, -1)
        hidden[kept] = self.labels[kept]
        return self.subset(range(len(self)), hidden)

    def subset(self, positions: Rows | Tensor | Sequence[int], labels: Tensor | None = None) -> Self:
        """Return some of the samples, without copying images.

        Args:
            positions: Positions of the samples in this dataset.
            labels: New labels of the samples; `None` keeps theirs.
        """
        chosen = np.asarray(positions, dtype=np.int64)
        part = copy.copy(self)
        part.rows = self.rows[chosen]
        part.labels = self.labels[torch.from_numpy(chosen)] if labels is None else labels
        return part

    def renumbered(self, attribute: str, numbers: Sequence[int], names: Sequence[str]) -> Self:
        """Return the samples with renumbered classes, without copying images.

        Args:
            attribute: DataModule attribute of the class list; here `class_names`.
            numbers: The new number of each class.
            names: The names in the new order.

        Raises:
            ValueError: If this dataset cannot renumber such classes.
        """
        if attribute != "class_names":
            raise ValueError(f"{type(self).__name__} cannot reorder its {attribute} to: {', '.join(names)}.")
        part = copy.copy(self)
        part.labels, part.class_names = _renumbered_labels(self.labels, torch.tensor(numbers)), list(names)
        return part

    def without_images(self) -> Self:
        """Return the samples with only `label` and `index`, for callers that have cached the images' features."""
        part = copy.copy(self)
        part._reads_images, part.in_memory = False, True
        return part

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the batch of these samples, with `label` and the positions in this dataset as `index`."""
        positions = np.asarray(indices, dtype=np.int64)
        index = torch.from_numpy(positions)
        content = self.read(self.rows[positions]) if self._reads_images else {}
        return {**content, "label": self.labels.index_select(0, index), "index": index}

    def __getitem__(self, index: int) -> dict[str, Any]:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"sample {index} is out of range for a dataset of {size}")
        return {name: values[0] for name, values in self.__getitems__([index % size]).items()}


def _renumbered_labels(labels: Tensor, numbers: Tensor) -> Tensor:
    """Return renumbered labels, or reordered columns of (N, K) labels; negative labels are kept."""
    if labels.ndim == 2:
        return labels[:, torch.argsort(numbers)]
    return torch.where(labels >= 0, numbers[labels.clamp(min=0)], labels)
