"""MixUp in training."""

import pytest
import torch

from lit_cv.callbacks.mixup import MixUp
from tests.callbacks.test_cutmix import numbered, start


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_labels_have_image_weights() -> None:
    torch.manual_seed(1)
    batch = numbered(10, torch.float32)
    batch["image"] = torch.eye(10)[:, :, None, None].repeat(1, 1, 2, 2)[
        :, :3
    ]  # samples 0, 1 and 2 have one bright channel each
    start(MixUp(alpha=1.0), batch)
    weights = batch["image"][:, :, 0, 0]
    torch.testing.assert_close(weights, batch["label"][:, :3])
    assert 0 < weights[0, 0] < 1
    torch.testing.assert_close(weights[1, 0] + weights[1, 1], torch.tensor(1.0))
    torch.testing.assert_close(batch["label"].sum(1), torch.ones(10))


def test_uint8_images_are_rounded() -> None:
    before = numbered(200)["image"].float()
    batch = start(MixUp(alpha=1.0), numbered(200))
    assert batch["image"].dtype == torch.uint8
    sums = batch["label"].sum(1)
    torch.testing.assert_close(sums, torch.ones(200))
    between = torch.minimum(before, before.roll(1, 0)), torch.maximum(before, before.roll(1, 0))
    assert (batch["image"] >= between[0]).all()
    assert (batch["image"] <= between[1]).all()


def test_weight_differs_per_sample() -> None:
    batch = start(MixUp(alpha=1.0), numbered(64))
    assert len(batch["label"].amax(1).unique()) > 60
