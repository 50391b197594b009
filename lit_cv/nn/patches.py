"""Images as sequences of patches, and back."""

import torch
from torch import Tensor

__all__ = ["gather_patches", "patch_grid", "patch_statistics", "patchify", "unpatchify"]


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return the number of rows and columns of patches of an image.

    Args:
        image_size: Height and width in pixels.
        patch_size: Side of a patch in pixels.

    Raises:
        ValueError: If the patch size does not divide both sides.
    """
    height, width = image_size
    if patch_size < 1 or height < 1 or width < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"images of {height}x{width} pixels cannot be cut into patches of {patch_size}x{patch_size}: "
            f"choose an image_size that is a multiple of {patch_size}, or another patch size."
        )
    return height // patch_size, width // patch_size


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, row by row; within a patch, the channel varies fastest, then the column.

    Args:
        images: (N, C, H, W) of any dtype.
        patch_size: Side P of a patch in pixels.

    Returns:
        (N, H / P * W / P, P * P * C).

    Raises:
        ValueError: If the patch size does not divide height and width.

    Example:
        >>> patchify(torch.arange(8).view(1, 1, 2, 4), 2)
        tensor([[[0, 1, 4, 5],
                 [2, 3, 6, 7]]])
    """
    rows, columns = patch_grid((images.shape[2], images.shape[3]), patch_size)
    n, channels = images.shape[:2]
    cut = images.reshape(n, channels, rows, patch_size, columns, patch_size)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, -1)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Reassemble images from patches: the inverse of `patchify`.

    Args:
        patches: (N, rows * columns, P * P * C).
        grid: Rows and columns of patches.
        patch_size: Side P of a patch in pixels.

    Returns:
        Images (N, C, rows * P, columns * P).
    """
    cut = patches.reshape(len(patches), *grid, patch_size, patch_size, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def gather_patches(tokens: Tensor, index: Tensor) -> Tensor:
    """Pick tokens of each sample.

    Args:
        tokens: (N, L, D), or (1, L, D) if all samples share them.
        index: (N, K) int64, indices in [0, L).

    Returns:
        (N, K, D).
    """
    n, length, width = len(index), tokens.shape[1], tokens.shape[2]
    if len(tokens) == 1:
        return tokens[0].index_select(0, index.flatten()).view(n, -1, width)
    # One flat index of rows is faster than `gather`, which needs an index for every number.
    first = torch.arange(0, n * length, length, device=index.device)[:, None]
    return tokens.reshape(n * length, width).index_select(0, (index + first).flatten()).view(n, -1, width)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation over the pixels and channels of each patch, as used by `norm_pix`.

    The variance is unbiased, plus 1e-6, as in the code of He et al. 2021.

    Args:
        patches: (..., D), float32 for exact values.

    Returns:
        Two tensors of shape (..., 1).
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
