"""The color matrix: exact cases, and the deviation in others."""

import pytest
import torch
from sklearn.datasets import load_sample_images

from lit_cv.augment import ColorJitter, RandomResizedCrop, color
from lit_cv.augment.color_matrix import apply_matrices, fold


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_exact_without_hue_and_clipping() -> None:
    images = torch.rand(30, 3, 9, 7) * 0.2 + 0.4
    linear, exact = ColorJitter(0.3, 0.3, 0.3, exact=False), ColorJitter(0.3, 0.3, 0.3)
    params = linear.draw(images)
    torch.testing.assert_close(linear.apply(images, params), exact.apply(images, params), atol=1e-5, rtol=0)


def test_hue_thirds_are_exact() -> None:
    images = torch.rand(2, 3, 5, 5)
    turns = torch.tensor([1 / 3, -1 / 3])
    matrices = fold({"hue": turns}, torch.zeros(2, 1, dtype=torch.long), ["hue"])
    expected = color.adjust_hue(images.clone(), turns)
    torch.testing.assert_close(apply_matrices(images, *matrices), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(expected[0], images[0].roll(1, 0), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_deviation_on_photographs_is_as_documented() -> None:
    torch.manual_seed(0)
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    images = RandomResizedCrop(48)(torch.stack(photographs).repeat(64, 1, 1, 1)).float() / 255
    for hue, expected in ((0.0, 1.4), (0.2, 6.7)):
        linear = ColorJitter(0.8, 0.8, 0.8, hue, exact=False)
        params = linear.draw(images)
        exact = ColorJitter(0.8, 0.8, 0.8, hue).apply(images, params)
        deviation = (linear.apply(images, params) - exact).abs().mean().item() * 255
        assert 0.5 * expected < deviation < 1.5 * expected


def test_gray_images_use_exact_functions() -> None:
    images = torch.rand(4, 1, 8, 8)
    linear = ColorJitter(0.8, 0.8, 0.8, 0.2, exact=False)
    params = linear.draw(images)
    assert torch.equal(linear.apply(images, params), ColorJitter(0.8, 0.8, 0.8, 0.2).apply(images, params))
