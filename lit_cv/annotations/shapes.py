"""Shapes that annotation tools draw, as the polygons and run-length codes that sets hold."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_cv.annotations.rle import encode_rle

__all__ = ["NO_AREA", "ellipse", "pasted_mask", "rotated_box"]

NO_AREA = "encloses no area: it is neither a box nor an outline"

_CORNERS = 64  # of an ellipse: its area is 0.2 % too small
_MOST = 1 << 16  # pixels that a side has


def ellipse(x: float, y: float, rx: float, ry: float, size: tuple[int, int], degrees: float = 0.0) -> list[float]:
    """Return an ellipse as a polygon, cut off at the edges of its image.

    Args:
        x: Its center.
        y: Its center.
        rx: Half of its width.
        ry: Half of its height.
        size: Height and width of the image; 0 where they are not known.
        degrees: How far it is turned, clockwise.
    """
    turn = math.radians(degrees)
    height, width = size
    polygon: list[float] = []
    for corner in range(_CORNERS):
        angle = 2 * math.pi * corner / _CORNERS
        across, along = rx * math.cos(angle), ry * math.sin(angle)
        px = x + across * math.cos(turn) - along * math.sin(turn)
        py = y + across * math.sin(turn) + along * math.cos(turn)
        if height > 0 and width > 0:
            px, py = min(max(px, 0.0), width), min(max(py, 0.0), height)
        polygon += [round(px, 6), round(py, 6)]
    return polygon


def rotated_box(left: float, top: float, right: float, bottom: float, degrees: float) -> list[float]:
    """Return a box that is turned around its center, clockwise, as a polygon.

    Example:
        >>> [round(value, 6) for value in rotated_box(0, 0, 4, 2, 90)]
        [3.0, -1.0, 3.0, 3.0, 1.0, 3.0, 1.0, -1.0]
    """
    x, y, turn = (left + right) / 2, (top + bottom) / 2, math.radians(degrees)
    polygon: list[float] = []
    for px, py in ((left, top), (right, top), (right, bottom), (left, bottom)):
        across, along = px - x, py - y
        polygon.append(x + across * math.cos(turn) - along * math.sin(turn))
        polygon.append(y + across * math.sin(turn) + along * math.cos(turn))
    return polygon


def pasted_mask(part: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return the run-length code of a mask that covers a part of its image.

    Args:
        part: The pixels (h, w).
        left: Column of its first pixel.
        top: Row of its first pixel.
        size: Height and width of the image.

    Raises:
        ValueError: If it does not lie within the image, or the image has no size.
    """
    height, width = size
    if not (0 < height < _MOST and 0 < width < _MOST):
        raise ValueError("its mask needs the height and width of the image, which are not there")
    if left < 0 or top < 0 or top + part.shape[0] > height or left + part.shape[1] > width:
        raise ValueError(f"its mask is not inside the image of {width} x {height} pixels")
    mask = np.zeros(size, dtype=np.bool_)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return encode_rle(mask)
