"""Base of operations that move pixels, and the same transforms of masks and boxes."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_cv.augment.memory import on_device
from lit_cv.augment.operation import Operation, Params
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["Geometric", "move_boxes", "move_masks"]


class Geometric(Operation):
    """An operation that moves the pixels of each sample by an affine map.

    A subclass implements the map as `_to_input`, and sets the values beyond the edges as `_border`.
    """

    moves_pixels = True
    _border = "zero"

    def matrices(self, params: Params, size: tuple[int, int]) -> Tensor:
        """Return the maps (N, 2, 3) from (x, y, 1) in the result to (x, y) in images of `size`, in pixels.

        Coordinates are continuous: the first pixel spans 0 to 1, its center is 0.5.
        """
        maps = self._to_input(params, size)
        applied = params.get("applied")
        return maps if applied is None else torch.where(applied.view(-1, 1, 1), maps, torch.eye(2, 3))

    def move_masks(self, masks: Tensor, params: Params, fill: int = IGNORE_INDEX) -> Tensor:
        """Move masks (N, H, W) like the images, with nearest-neighbor interpolation.

        Args:
            masks: Class of every pixel, any integer dtype.
            params: Parameters drawn for the images.
            fill: Class of pixels from beyond the edges, if the border is "zero".
        """
        size = (masks.shape[1], masks.shape[2])
        return move_masks(masks, self.matrices(params, size), self.output_size(size), self._border, fill)

    def move_boxes(
        self, boxes: Sequence[Tensor], params: Params, size: tuple[int, int], min_visible: float = 0.25
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Move boxes like the images of `size`; see `move_boxes`."""
        return move_boxes(boxes, self.matrices(params, size), self.output_size(size), min_visible)

    @abstractmethod
    def _to_input(self, params: Params, size: tuple[int, int]) -> Tensor: ...


def move_masks(masks: Tensor, maps: Tensor, size: tuple[int, int], border: str, fill: int) -> Tensor:
    """Move masks by affine maps, with nearest-neighbor interpolation.

    Args:
        masks: (N, H, W), any dtype.
        maps: (N, 2, 3), from (x, y, 1) in the result to (x, y) in the masks, in pixels.
        size: (height, width) of the result.
        border: Values beyond the edges: "zero" for `fill`, "edge", "reflect" (without repeating the edge pixels) or
            "mirror" (repeating them).
        fill: Class of pixels beyond the edges for "zero".

    Returns:
        (N, *size), in the dtype of the masks.
    """
    maps = on_device(maps, masks)
    y = torch.arange(size[0], device=masks.device)[:, None] + 0.5
    x = torch.arange(size[1], device=masks.device)[None, :] + 0.5
    terms = [m.view(-1, 1, 1) for m in maps.flatten(1).unbind(1)]
    column = (terms[0] * x + terms[1] * y + terms[2]).floor_().long()
    row = (terms[3] * x + terms[4] * y + terms[5]).floor_().long()
    height, width = masks.shape[1:]
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    column, row = _inside(column, width, border), _inside(row, height, border)
    moved = masks.flatten(1).gather(1, (row * width + column).flatten(1)).view(-1, *size)
    return moved.masked_fill_(outside, fill) if border == "zero" else moved


def _inside(position: Tensor, length: int, border: str) -> Tensor:
    if border == "reflect":
        position = length - 1 - (length - 1 - position.abs()).abs()
    elif border == "mirror":
        position = torch.where(position < 0, -1 - position, position)
        position = torch.where(position >= length, 2 * length - 1 - position, position)
    return position.clamp(0, length - 1)


def move_boxes(
    boxes: Sequence[Tensor], maps: Tensor, size: tuple[int, int], min_visible: float = 0.25
) -> tuple[list[Tensor], list[Tensor]]:
    """Move boxes by affine maps: each becomes the box around its four moved corners, clipped to the image.

    Args:
        boxes: For each image (n, 4), x0, y0, x1, y1 in pixels.
        maps: (N, 2, 3), from (x, y, 1) in the result to (x, y) in the images, in pixels.
        size: (height, width) of the result.
        min_visible: Boxes with a smaller fraction of their area inside the image are dropped.

    Returns:
        The moved boxes that are kept, and a mask (n,) bool of the kept boxes for each image.
    """
    turn, shift = maps[:, :, :2], maps[:, :, 2]
    a, b, c, d = turn.flatten(1).unbind(1)
    back = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / (a * d - b * c).view(-1, 1, 1)
    moved, kept = [], []
    for image_boxes, inverse, offset in zip(boxes, back, shift, strict=True):
        inverse, offset = on_device(inverse, image_boxes), on_device(offset, image_boxes)
        corners = image_boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].view(-1, 4, 2).to(inverse.dtype)
        corners = (corners - offset) @ inverse.T
        around = torch.cat([corners.amin(1), corners.amax(1)], 1)
        inside = around.clone()
        inside[:, 0::2].clamp_(0, size[1])
        inside[:, 1::2].clamp_(0, size[0])
        visible = _areas(inside)
        keep = (visible > 0) & (visible >= min_visible * _areas(around))
        moved.append(inside[keep].to(image_boxes.dtype))
        kept.append(keep)
    return moved, kept


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
