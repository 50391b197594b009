"""Masks from input noise: exact counts, reference values and properties of each kind."""

import pytest
import torch

from lit_cv.nn.masking import fixed_noise, mask_indices, patch_mask, visible_count

# torch.manual_seed(1); torch.rand(2, 8) after an arange, and the mask of the authors' code for it at 0.75.
NOISE = [
    [0.7576316, 0.279310882, 0.403069258, 0.734684467, 0.0292815566, 0.79985863, 0.397137344, 0.754371941],
    [0.569508493, 0.438777924, 0.638680458, 0.524665892, 0.682614088, 0.305149496, 0.46354562, 0.454986334],
]
REFERENCE = [[1, 0, 1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 0, 1, 1]]
KINDS = ["random", "block", "grid"]


def test_random_masks_equal_reference():
    mask = patch_mask("random", torch.tensor(NOISE), (2, 4), visible_count(8, 0.75))
    assert mask.int().tolist() == REFERENCE
    keep, hidden = mask_indices(mask)
    assert keep.tolist() == [[1, 4], [1, 5]]
    assert hidden[0].tolist() == [0, 2, 3, 5, 6, 7]


@pytest.mark.parametrize(
    ("length", "ratio", "count"),
    [(196, 0.75, 49), (49, 0.75, 12), (10, 0.9, 1), (10, 0.999, 1), (10, 0.001, 9), (2, 0.5, 1), (64, 0.6, 26)],
)
def test_visible_count(length, ratio, count):
    assert visible_count(length, ratio) == count


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_invalid_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match=f"mask_ratio={ratio}"):
        visible_count(4, ratio)


def test_single_patch_is_refused():
    with pytest.raises(ValueError, match="1 patch cannot be masked"):
        visible_count(1, 0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(7, 7), (3, 8), (1, 2), (14, 14)])
def test_masks_have_equal_counts_and_differ_between_images(kind, grid):
    length = grid[0] * grid[1]
    noise = torch.rand(64, length, generator=torch.Generator().manual_seed(0))
    for visible in {1, max(1, length // 4), length - 1}:
        mask = patch_mask(kind, noise, grid, visible)
        assert mask.shape == (64, length)
        assert ((~mask).sum(1) == visible).all()
        assert torch.equal(mask, patch_mask(kind, noise, grid, visible))
        assert len(mask.unique(dim=0)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_hidden_equally_often(kind):
    noise = torch.rand(4000, 64, generator=torch.Generator().manual_seed(0))
    share = patch_mask(kind, noise, (8, 8), 16).float().mean(0)
    # Blocks cover the center of an image more often than its corners.
    assert share.sub(0.75).abs().max() < (0.35 if kind == "block" else 0.03)


def test_grid_shows_one_of_four_patches():
    noise = torch.rand(50, 48, generator=torch.Generator().manual_seed(0))
    shown = ~patch_mask("grid", noise, (6, 8), 12).view(50, 3, 2, 4, 2)
    assert (shown.sum((2, 4)) == 1).all()
    assert len({tuple(image.nonzero()[0].tolist()) for image in shown.any(1).any(2)}) > 1  # at one of four offsets


def test_block_masks_are_contiguous():
    noise = torch.rand(200, 196, generator=torch.Generator().manual_seed(0))

    def alike(kind):
        mask = patch_mask(kind, noise, (14, 14), 98).view(200, 14, 14)
        return (mask[:, 1:] == mask[:, :-1]).float().mean()

    assert alike("block") > 0.8 > 0.55 > alike("random")


def test_fixed_noise_depends_only_on_image():
    noise = fixed_noise(torch.tensor([5, 9, 1000003]), 49)
    assert torch.equal(noise[1:2], fixed_noise(torch.tensor([9]), 49))
    assert torch.equal(fixed_noise(torch.arange(3), 49), fixed_noise(torch.arange(3), 49))
    many = fixed_noise(torch.arange(2000), 64)
    assert 0 <= many.min() < many.max() < 1
    assert abs(float(many.mean()) - 0.5) < 0.003
    assert abs(float(many.std()) - 12**-0.5) < 0.003
    centered = many - 0.5
    assert (centered[1:] * centered[:-1]).mean().abs() < 1e-3  # between images
    assert (centered[:, 1:] * centered[:, :-1]).mean().abs() < 1e-3  # between patches


@pytest.mark.parametrize("rows", [[[1, 0], [1, 1]], [[1, 1]], [[0, 0]], [[1, 0], [0, 0]]])
def test_uneven_masks_are_refused(rows):
    with pytest.raises(ValueError, match="must hide the same number of patches, at least one and not all"):
        mask_indices(torch.tensor(rows, dtype=torch.bool))
