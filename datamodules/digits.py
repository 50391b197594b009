"""The handwritten digits of scikit-learn: real images without a download."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from datamodules.base import BaseDataModule, Split
from datamodules.checks import check
from datamodules.memory import InMemoryDataset
from datamodules.splits import hold_out

__all__ = ["DigitsDataModule"]


class DigitsDataModule(BaseDataModule):
    """1,797 real handwritten digits, gray, 8 x 8 pixels, 10 classes; nothing is downloaded.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998, as in
    `sklearn.datasets.load_digits`. 20% are held out for testing, stratified by class.

    Args:
        image_size: Side in pixels to enlarge the images to (bilinear); `None` keeps 8.
        **kwargs: Arguments of `BaseDataModule`.

    Example:
        >>> data = DigitsDataModule(batch_size=32)
        >>> data.setup()
        >>> len(data.train_dataset), len(data.val_dataset), len(data.test_dataset)
        (1294, 144, 359)
        >>> next(iter(data.train_dataloader()))["image"].shape
        torch.Size([32, 1, 8, 8])
    """

    def __init__(self, image_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check(self, "image_size", image_size, image_size is None or image_size >= 8, "at least 8")
        self._splits: dict[str, InMemoryDataset] = {}

    def load(self, split: Split) -> InMemoryDataset | None:
        """Return the training or test images."""
        if not self._splits:
            table = _digits()
            # 0..16 is mapped to 0..255 in steps of 15.9375, rounded.
            images = torch.from_numpy(np.round(table[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
            if (side := self.hparams["image_size"]) is not None:
                images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
            dataset = InMemoryDataset(images, table[:, -1].astype(np.int64), [str(digit) for digit in range(10)])
            train, test = hold_out(dataset.labels, 0.2, self.hparams["split_seed"], purpose=2)
            self._splits = {"train": dataset.subset(train), "test": dataset.subset(test)}
        return self._splits.get(split)


def _digits() -> NDArray[np.float64]:
    """Return 64 pixels and a label for each image, from the file of scikit-learn.

    Importing `sklearn.datasets` imports most of scikit-learn and SciPy, which takes longer than a short training run.
    """
    package = importlib.util.find_spec("sklearn")
    folder = Path(package.origin).parent if package is not None and package.origin else Path()
    file = folder / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # a release with another layout

    return np.column_stack(load_digits(return_X_y=True))
