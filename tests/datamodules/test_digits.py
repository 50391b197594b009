import importlib.util

import numpy as np
import pytest
import torch

from datamodules import DigitsDataModule


@pytest.mark.parametrize("layout", ["current", "unknown"])
def test_digits_are_those_of_sklearn(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    if layout == "unknown":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    data = DigitsDataModule()
    data.setup()
    expected = load_digits()
    for dataset in (data.train_dataset, data.val_dataset, data.test_dataset):
        for place in (0, 1, len(dataset) - 1):
            image, label = dataset[place]["image"], int(dataset[place]["label"])
            distance = np.abs(expected.images * 255 / 16 - image[0].numpy()).max((1, 2))
            assert image.dtype == torch.uint8
            assert distance.min() <= 0.5
            assert expected.target[distance.argmin()] == label
    assert len(data.train_dataset) + len(data.val_dataset) + len(data.test_dataset) == len(expected.target)
