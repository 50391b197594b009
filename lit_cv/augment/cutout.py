"""Cutout, the random erasing of a square."""

import torch
from torch import Tensor

from lit_cv.augment.checks import check_number
from lit_cv.augment.operation import OPERATIONS, Operation, Params
from lit_cv.augment.regions import centered_boxes, fill_boxes
from lit_cv.errors import OptionError

__all__ = ["Cutout"]


@OPERATIONS.add("cutout")
class Cutout(Operation):
    """Random erasing of a square, with its center anywhere in the image, clipped at the edges.

    DeVries & Taylor, 2017.

    Args:
        size: Side of the square: an integer number of pixels, or a fraction below 1 of the image's shorter side.
        value: Fill value, 0 (black) to 1 (white); 0.5 is near the mean of most images.
        p: Probability of erasing a square in a sample.

    Example:
        >>> Cutout(size=8)(torch.zeros(2, 3, 32, 32)).amax()
        tensor(0.5000)
    """

    overwrites = True

    def __init__(self, size: int | float = 0.5, value: float = 0.5, p: float = 1.0) -> None:
        super().__init__(p)
        check_number("size", size, 0.0)
        if isinstance(size, float) and size >= 1:
            raise OptionError(self, "size", size, "must be an integer number of pixels, or a fraction below 1")
        self.size = size
        self.value = check_number("value", value, 0.0, 1.0)

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        side = self.size if isinstance(self.size, int) else round(self.size * min(size))
        boxes = centered_boxes(size, torch.full((n,), side // 2), torch.full((n,), side // 2))
        return {"box": boxes if side % 2 == 0 else _grown(boxes, size)}

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        value = round(self.value * 255) if images.dtype == torch.uint8 else self.value
        return fill_boxes(images, params["box"], value)


def _grown(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes extended by one pixel at the bottom and the right, within the image."""
    grown = boxes + torch.tensor([0, 0, 1, 1])
    return torch.minimum(grown, torch.tensor([size[0], size[1], size[0], size[1]]))
