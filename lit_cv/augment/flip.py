"""Random horizontal and vertical flips."""

import torch
from torch import Tensor

from lit_cv.augment.geometry import Geometric
from lit_cv.augment.operation import OPERATIONS, Params

__all__ = ["HorizontalFlip", "VerticalFlip"]


class _Flip(Geometric):
    overwrites = True
    _dim: int

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        return {"applied": torch.ones(n, dtype=torch.bool)}

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        return images.flip(self._dim)

    def _to_input(self, params: Params, size: tuple[int, int]) -> Tensor:
        x, y = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
        if self._dim == 3:
            x = [-1.0, 0.0, size[1]]
        else:
            y = [0.0, -1.0, size[0]]
        return torch.tensor([x, y]).expand(len(params["applied"]), 2, 3)


@OPERATIONS.add("horizontal_flip")
class HorizontalFlip(_Flip):
    """Random flip from left to right.

    Args:
        p: Probability of flipping a sample.

    Example:
        >>> HorizontalFlip(p=1.0)(torch.tensor([[[[0.1, 0.2, 0.3]]]]))
        tensor([[[[0.3000, 0.2000, 0.1000]]]])
    """

    _dim = 3


@OPERATIONS.add("vertical_flip")
class VerticalFlip(_Flip):
    """Random flip from top to bottom.

    Args:
        p: Probability of flipping a sample.
    """

    _dim = 2
