"""Cutout in training."""

import pytest
import torch

from lit_cv.callbacks.cutout import Cutout
from tests.callbacks.test_augmentation import start


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_square_differs_per_image() -> None:
    images = torch.full((32, 3, 20, 24), 9, dtype=torch.uint8)
    mask = torch.zeros(32, 20, 24)
    batch = start(Cutout(size=6, value=1.0), {"image": images, "mask": mask})
    assert batch["mask"] is mask
    erased = (batch["image"] == 255).all(1)
    assert set(batch["image"].unique().tolist()) == {9, 255}
    counts = erased.flatten(1).sum(1)
    assert counts.max() == 36
    assert counts.min() >= 9
    assert len({sample.numpy().tobytes() for sample in erased}) > 20


def test_error_names_size() -> None:
    with pytest.raises(ValueError, match=r"size=1\.5"):
        Cutout(size=1.5)
