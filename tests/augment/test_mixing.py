"""CutMix, MixUp and their labels."""

import pytest
import torch

from lit_cv.augment import cutmix, draw_cutmix, mix_labels, mixup, soft_labels
from lit_cv.augment.regions import _mask


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmix_weight_is_pasted_area(dtype: torch.dtype, alpha: float) -> None:
    n = 33
    images = torch.arange(1, n + 1).view(n, 1, 1, 1).expand(n, 3, 20, 27).to(dtype).contiguous()
    boxes, keep = draw_cutmix(n, (20, 27), alpha)
    mixed = cutmix(images, boxes)
    assert torch.equal(images.unique().float(), torch.arange(1.0, n + 1))
    assert mixed.dtype == dtype
    own = (mixed == images).float().mean((1, 2, 3))
    other = (mixed == images.roll(1, 0)).float().mean((1, 2, 3))
    torch.testing.assert_close(own, keep)
    torch.testing.assert_close(other, 1 - keep)
    labels = mix_labels(soft_labels(torch.arange(n), n), keep)
    torch.testing.assert_close(labels.sum(1), torch.ones(n))
    torch.testing.assert_close(labels[torch.arange(n), torch.arange(n)], keep)
    torch.testing.assert_close(labels[torch.arange(n), torch.arange(n) - 1], 1 - keep)


def test_mask_for_other_devices_equals_box() -> None:
    images = torch.rand(50, 3, 12, 17)
    boxes, _ = draw_cutmix(50, (12, 17), 1.0)
    expected = cutmix(images, boxes)
    assert torch.equal(torch.where(_mask(images, boxes), images.roll(1, 0), images), expected)


def test_boxes_differ_between_samples() -> None:
    boxes, _ = draw_cutmix(64, (32, 32), 1.0)
    assert len(boxes.unique(dim=0)) > 50


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_mixup_equals_weighted_mean(dtype: torch.dtype) -> None:
    images = (torch.rand(5, 3, 6, 6) * 255).to(torch.uint8)
    images = images if dtype == torch.uint8 else images / 255
    weight = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    mixed = mixup(images, weight)
    for i in range(5):
        expected = weight[i] * images[i].double() + (1 - weight[i]) * images[i - 1].double()
        tolerance = 0.5001 if dtype == torch.uint8 else 1e-6
        assert (mixed[i].double() - expected).abs().max() <= tolerance
    assert mixed.dtype == dtype


def test_single_sample_and_empty_batch() -> None:
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(cutmix(image, draw_cutmix(1, (8, 8), 1.0)[0]), image)
    assert torch.allclose(mixup(image, torch.tensor([0.3])), image)
    assert cutmix(image[:0], draw_cutmix(0, (8, 8), 1.0)[0]).shape == (0, 3, 8, 8)
    assert mixup(image[:0], torch.rand(0)).shape == (0, 3, 8, 8)


def test_soft_labels() -> None:
    hard = soft_labels(torch.tensor([2, 0, -1]), 3)
    assert hard.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    several = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    assert torch.equal(soft_labels(several, 3), several)
    assert mix_labels(several, torch.tensor([0.25, 1.0])).tolist() == [[0.25, 1.0, 0.75], [0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([3]), ValueError, "label 3, but the module has num_classes=3"),
        (torch.rand(2, 4), ValueError, "labels have 4 classes, but the module has num_classes=3"),
        (torch.rand(2), TypeError, "float32"),
    ],
)
def test_invalid_labels_are_refused(labels: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        soft_labels(labels, 3)


def test_no_device_synchronization() -> None:
    images = torch.empty(6, 3, 8, 8, dtype=torch.uint8, device="meta")
    boxes, keep = draw_cutmix(6, (8, 8), 1.0)
    assert cutmix(images, boxes).device.type == "meta"
    assert mixup(images, keep).device.type == "meta"
    labels = soft_labels(torch.empty(6, dtype=torch.int64, device="meta"), 10)
    assert mix_labels(labels, keep).shape == (6, 10)
