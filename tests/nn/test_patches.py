"""Patches: order, inverse and supported sizes."""

import pytest
import torch

from lit_cv.nn.patches import gather_patches, patch_grid, patch_statistics, patchify, unpatchify

# From the MAE authors' code, for torch.arange(48.).reshape(1, 3, 4, 4) and patches of 2 pixels.
REFERENCE = [
    [0, 16, 32, 1, 17, 33, 4, 20, 36, 5, 21, 37],
    [2, 18, 34, 3, 19, 35, 6, 22, 38, 7, 23, 39],
    [8, 24, 40, 9, 25, 41, 12, 28, 44, 13, 29, 45],
    [10, 26, 42, 11, 27, 43, 14, 30, 46, 15, 31, 47],
]


def test_patchify_equals_reference():
    assert patchify(torch.arange(48).view(1, 3, 4, 4), 2)[0].tolist() == REFERENCE


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("shape", "patch"), [((2, 3, 8, 8), 4), ((1, 1, 6, 10), 2), ((3, 5, 4, 12), 4), ((2, 1, 3, 2), 1)]
)
def test_unpatchify_inverts_patchify(shape, patch, channels_last):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last) if channels_last else images
    patches = patchify(images, patch)
    grid = patch_grid(shape[2:], patch)
    assert patches.shape == (shape[0], grid[0] * grid[1], patch * patch * shape[1])
    assert torch.equal(unpatchify(patches, grid, patch), images)
    row, column = grid[0] - 1, grid[1] - 1  # the last patch is the lower right corner
    corner = images[:, :, row * patch :, column * patch :].permute(0, 2, 3, 1).flatten(1)
    assert torch.equal(patches[:, -1], corner)


@pytest.mark.parametrize(("size", "patch"), [((30, 32), 4), ((32, 30), 4), ((8, 8), 16), ((8, 8), 0)])
def test_error_names_image_and_patch_size(size, patch):
    with pytest.raises(ValueError, match=f"images of {size[0]}x{size[1]} pixels cannot be cut into patches of {patch}"):
        patch_grid(size, patch)


@pytest.mark.parametrize("rows", [1, 4])
def test_gather_patches_equals_indexing(rows):
    tokens = torch.randn(rows, 6, 5)
    index = torch.stack([torch.randperm(6)[:3] for _ in range(4)])
    expected = tokens.expand(4, -1, -1).gather(1, index[:, :, None].expand(-1, -1, 5))
    assert torch.equal(gather_patches(tokens, index), expected)


def test_patch_statistics_use_unbiased_variance():
    patches = torch.rand(2, 3, 12, dtype=torch.float64)
    mean, std = patch_statistics(patches)
    expected = (((patches - patches.mean(-1, keepdim=True)) ** 2).sum(-1, keepdim=True) / 11 + 1e-6) ** 0.5
    torch.testing.assert_close(std, expected)
    torch.testing.assert_close(mean, patches.sum(-1, keepdim=True) / 12)
