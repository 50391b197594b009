"""Well-known datasets that fit into memory, downloaded by torchvision.

Adding one takes a few lines: the name of torchvision's class, and its arguments for each split.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.base import BaseDataModule, Split
from datamodules.downloads import open_set
from datamodules.memory import InMemoryDataset

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "FashionMNISTDataModule",
    "MNISTDataModule",
    "STL10DataModule",
    "SVHNDataModule",
    "TorchvisionDataModule",
    "USPSDataModule",
]


class TorchvisionDataModule(BaseDataModule):
    """Base of datasets that torchvision downloads and keeps in memory.

    A subclass sets `source` to the name of torchvision's class, and `splits` to its arguments for each split.

    Args:
        root: Folder of the dataset, also for downloads.
        download: Whether to download the dataset if it is missing.
        **kwargs: Arguments of `BaseDataModule`.

    Raises:
        FileNotFoundError: If the dataset is missing and cannot or must not be downloaded.
    """

    source: ClassVar[str]
    splits: ClassVar[dict[str, dict[str, Any]]] = {"train": {"train": True}, "test": {"train": False}}

    def __init__(self, root: str = "data", download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._opened: dict[str, Any] = {}  # read once for `prepare_data` and `load`

    @property
    def folder(self) -> Path:
        """Root folder for torchvision."""
        return Path(self.hparams["root"]).expanduser()

    def prepare_data(self) -> None:
        """Download missing data."""
        for split, arguments in self.splits.items():
            self._opened[split] = open_set(self.source, self.folder, self.hparams["download"], **arguments)

    def load(self, split: Split) -> InMemoryDataset | None:
        """Return the images of a split as one array."""
        if split not in self.splits:
            return None
        source = self._opened.pop(split, None)
        if source is None:
            source = open_set(self.source, self.folder, download=False, **self.splits[split])
        images = np.asarray(source.data)
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] == 3:
            images = images.transpose(0, 3, 1, 2)
        labels = np.asarray(source.labels if hasattr(source, "labels") else source.targets)
        names = getattr(source, "classes", None) or [str(label) for label in range(int(labels.max()) + 1)]
        return InMemoryDataset(images, labels.astype(np.int64), [_plain(name) for name in names])


def _plain(name: str) -> str:
    """Return a class name without MNIST's suffix, as in "7 - seven"."""
    number, dash, _ = name.partition(" - ")
    return number if dash and number.isdigit() else name


class MNISTDataModule(TorchvisionDataModule):
    """60,000 + 10,000 handwritten digits, gray, 28 x 28, 10 classes (LeCun et al. 1998)."""

    source = "MNIST"


class FashionMNISTDataModule(TorchvisionDataModule):
    """60,000 + 10,000 pieces of clothing, gray, 28 x 28, 10 classes (Xiao et al. 2017)."""

    source = "FashionMNIST"


class USPSDataModule(TorchvisionDataModule):
    """7,291 + 2,007 handwritten digits from envelopes, gray, 16 x 16, 10 classes (Hull 1994).

    The files are in `root` or in `root/USPS`, which is also used for downloads.
    """

    source = "USPS"

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return super().folder if (super().folder / "usps.bz2").is_file() else super().folder / "USPS"


class SVHNDataModule(TorchvisionDataModule):
    """73,257 + 26,032 house numbers in color, 32 x 32, 10 classes (Netzer et al. 2011)."""

    source = "SVHN"
    splits: ClassVar[dict[str, dict[str, Any]]] = {"train": {"split": "train"}, "test": {"split": "test"}}


class CIFAR10DataModule(TorchvisionDataModule):
    """50,000 + 10,000 color images, 32 x 32, 10 classes (Krizhevsky 2009)."""

    source = "CIFAR10"


class CIFAR100DataModule(TorchvisionDataModule):
    """50,000 + 10,000 color images, 32 x 32, 100 classes (Krizhevsky 2009)."""

    source = "CIFAR100"


class STL10DataModule(TorchvisionDataModule):
    """5,000 + 8,000 color images, 96 x 96, 10 classes, and 100,000 without labels (Coates et al. 2011).

    Modules that learn without labels train on all 105,000 images, others on those with labels.
    """

    source = "STL10"
    splits: ClassVar[dict[str, dict[str, Any]]] = {"train": {"split": "train+unlabeled"}, "test": {"split": "test"}}
