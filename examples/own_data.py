r"""A DataModule of your own data, here arrays in memory: handwritten digits, to be classified as even or odd.

The command, from this folder (`file.Class` names the class):

    lit-cv fit --model SupervisedModule --data own_data.ParityDataModule --model.backbone resnet9_small \
        --trainer.max_epochs 5

The base class splits off validation images, hides labels (`--data.labels_per_class 10`), balances classes, and resumes
in the middle of an epoch. For image files, subclass `FilesDataModule`; for images that do not fit into memory, return a
subclass of `ImageDataset` whose method `read` returns the images of some rows.
"""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from datamodules import BaseDataModule, InMemoryDataset
from datamodules.base import Split


class ParityDataModule(BaseDataModule):
    """Even and odd handwritten digits, gray, 8 x 8 pixels.

    Args:
        test_size: Number of images for testing, the last ones.
        **kwargs: Arguments of `BaseDataModule`.
    """

    def __init__(self, test_size: int = 360, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def load(self, split: Split) -> InMemoryDataset | None:
        """Return the images of a split; `None` where there is none, so that validation images are split off."""
        digits, size = load_digits(), self.hparams["test_size"]
        images = np.round(digits.images[:, None] * (255 / 16)).astype(np.uint8)  # (N, channels, height, width)
        dataset = InMemoryDataset(images, digits.target % 2, ["even", "odd"])
        if split == "train":
            return dataset.subset(range(len(dataset) - size))
        return dataset.subset(range(len(dataset) - size, len(dataset))) if split == "test" else None
