"""Masks that hide patches of an image: random, block and grid masks, each a function of input noise."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lit_cv.errors import OptionError

__all__ = ["MaskName", "fixed_noise", "mask_indices", "patch_mask", "visible_count"]

MaskName = Literal["random", "block", "grid"]

_BLOCKS = 4  # blocks per mask
_ASPECT = 3.0  # largest aspect ratio of a block
# A 4x4 ordered-dither matrix: its k lowest ranks are as far apart as k positions can be.
_LATTICE = ((0, 8, 2, 10), (12, 4, 14, 6), (3, 11, 1, 9), (15, 7, 13, 5))


def visible_count(length: int, mask_ratio: float) -> int:
    """Return how many of `length` patches stay visible, from 1 to `length - 1`.

    Raises:
        ValueError: If the ratio is not between 0 and 1, or there are fewer than two patches.

    Example:
        >>> visible_count(196, 0.75), visible_count(10, 0.9), visible_count(4, 0.01)
        (49, 1, 3)
    """
    if not 0 < mask_ratio < 1:
        raise OptionError(None, "mask_ratio", mask_ratio, "must be a fraction between 0 and 1 (0.75 in the paper)")
    if length < 2:
        raise ValueError(f"an image of {length} patch cannot be masked: choose a smaller patch size.")
    return min(max(round(length * (1 - mask_ratio)), 1), length - 1)


def patch_mask(name: MaskName, noise: Tensor, grid: tuple[int, int], visible: int) -> Tensor:
    """Return which patches are hidden.

    - `random`: the patches with the lowest noise stay visible (He et al. 2021).
    - `block`: a few rectangles grow until they hide the required number of patches (after Bao et al. 2021).
    - `grid`: the visible patches form a regular lattice; at a mask ratio of 0.75, one in each 2x2 (He et al. 2021,
      figure 6). Its offset differs between images.

    Args:
        name: Kind of mask.
        noise: (N, L), independent and uniform in [0, 1).
        grid: Rows and columns of patches, L in total.
        visible: Number of visible patches per image.

    Returns:
        (N, L) bool, True where hidden; every row has exactly `visible` entries that are False.

    Example:
        >>> patch_mask("random", torch.tensor([[0.3, 0.1, 0.4, 0.2]]), (2, 2), 2)
        tensor([[ True, False,  True, False]])
    """
    scores = _SCORES[name](noise, grid)
    mask = torch.ones_like(scores, dtype=torch.bool)
    # The sort is stable: among equal scores, the later patch is hidden on every device.
    return mask.scatter_(1, scores.argsort(dim=1, stable=True)[:, :visible], False)


def mask_indices(mask: Tensor, visible: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the indices of the visible and the hidden patches of each image in ascending order.

    Args:
        mask: (N, L) bool, True where hidden, with the same number of True in each row.
        visible: Number of visible patches per image, if known; `None` counts and checks them.

    Returns:
        Two int64 tensors, (N, visible) and (N, L - visible).

    Raises:
        ValueError: If the rows hide different numbers of patches, or all, or none.
    """
    if visible is None:
        length = mask.shape[1]
        fewest, most = (int(bound) for bound in torch.aminmax(mask.sum(1)))
        if fewest != most or not 0 < fewest < length:
            raise ValueError(
                f"the masks hide {fewest} to {most} of {length} patches: every image of a batch must hide the same "
                "number of patches, at least one and not all."
            )
        visible = length - most
    order = mask.byte().argsort(dim=1, stable=True)
    return order[:, :visible], order[:, visible:]


def fixed_noise(index: Tensor, length: int) -> Tensor:
    """Return noise that depends only on the index of the image and of the patch.

    An image is then masked identically in any batch and on any device.

    Args:
        index: (N,) int64, indices of the images.
        length: Number L of patches.

    Returns:
        (N, L) float32 in [0, 1).
    """
    x = index.long()[:, None] * length + torch.arange(length, device=index.device)
    low_bits = 0xFFFFFFFF
    # MurmurHash3's finalizer: every bit of the input changes half of the bits of the output.
    x = ((x + 0x9E3779B9) * 0x9E3779B1) & low_bits
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & low_bits
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & low_bits
    return ((x ^ (x >> 16)) >> 8).float() / (1 << 24)


def _random_scores(noise: Tensor, grid: tuple[int, int]) -> Tensor:
    return noise


def _block_scores(noise: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return negated distances from the nearest block center in a scaled maximum norm; the farthest stay visible."""
    rows, columns = grid
    blocks = min(_BLOCKS, rows * columns)
    centers = noise.argsort(dim=1, stable=True)[:, :blocks]
    stretch = _ASPECT ** ((noise.gather(1, centers) * 4096) % 1 - 0.5)  # low-order digits: independent of the rank
    patch = torch.arange(rows * columns, device=noise.device)
    dy = (patch // columns - (centers // columns)[..., None]).abs() * stretch[..., None]
    dx = (patch % columns - (centers % columns)[..., None]).abs() / stretch[..., None]
    distance = torch.maximum(dy, dx).amin(1)
    return -distance + 1e-3 * noise


def _grid_scores(noise: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the ranks of an ordered dither, shifted by an offset drawn from the noise of the first two patches."""
    rows, columns = grid
    lattice = torch.tensor(_LATTICE, device=noise.device)
    offset = (noise[:, :2] * 4).long()
    y = (torch.arange(rows, device=noise.device) + offset[:, :1]) % 4
    x = (torch.arange(columns, device=noise.device) + offset[:, -1:]) % 4
    return lattice[y[:, :, None], x[:, None, :]].flatten(1) + 0.5 * noise


_SCORES: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "random": _random_scores,
    "block": _block_scores,
    "grid": _grid_scores,
}
