"""Position embeddings of patches: the fixed sine-cosine table, and interpolation to another grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.errors import OptionError

__all__ = ["resize_positions", "sincos_positions"]


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return the fixed 2-D sine-cosine table of MAE (He et al. 2021; MoCo v3, Chen et al. 2021).

    The first half of the channels encodes the column x, the second the row y; each half holds sin(x w_i), then
    cos(x w_i), with w_i = 10000^(-4 i / width).

    Args:
        grid: Rows and columns of patches.
        width: Number of channels, a multiple of 4.

    Returns:
        (rows * columns, width) float32, row by row.

    Raises:
        ValueError: If the width is not a multiple of 4.

    Example:
        >>> sincos_positions((1, 2), 4)[1]
        tensor([0.8415, 0.5403, 0.0000, 1.0000])
    """
    if width % 4:
        raise OptionError(None, "width", width, "sine-cosine positions need a multiple of 4")
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    y, x = (torch.arange(side, dtype=torch.float64)[:, None] * frequencies for side in grid)
    halves = (
        torch.cat([x.sin(), x.cos()], 1).expand(grid[0], -1, -1),
        torch.cat([y.sin(), y.cos()], 1)[:, None].expand(-1, grid[1], -1),
    )
    return torch.cat(halves, 2).flatten(0, 1).float()


def resize_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings to another grid of patches; those of prefix tokens do not change.

    The interpolation is bicubic and antialiased, as in timm. MAE's code does not antialias, so its values differ for a
    smaller grid.

    Args:
        positions: (1, T + rows * columns, D): T prefix tokens, such as the class token, then the patches.
        grid: Current rows and columns.
        new_grid: New rows and columns.

    Returns:
        (1, T + new rows * new columns, D), of the same dtype.
    """
    if grid == new_grid:
        return positions
    prefix = positions.shape[1] - grid[0] * grid[1]
    table = positions[:, prefix:].float().view(1, *grid, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=new_grid, mode="bicubic", antialias=True)
    table = table.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :prefix], table], 1)
