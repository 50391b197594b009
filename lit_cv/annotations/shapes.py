"""Conversion of shapes from annotation tools to polygons and run-length encodings."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_cv.annotations.rle import encode_rle

__all__ = ["NO_AREA", "ellipse", "pasted_mask", "rotated_box"]

NO_AREA = "has no area: only boxes and outlines are read"

_CORNERS = 64  # of an ellipse, which makes its area 0.2% too small
_MAX_SIDE = 1 << 16  # pixels per side


def ellipse(x: float, y: float, rx: float, ry: float, size: tuple[int, int], degrees: float = 0.0) -> list[float]:
    """Return an ellipse as a polygon, clipped at the edges of the image.

    Args:
        x: Horizontal center.
        y: Vertical center.
        rx: Half of the width.
        ry: Half of the height.
        size: Height and width of the image; 0 if unknown.
        degrees: Clockwise rotation.
    """
    radians = math.radians(degrees)
    height, width = size
    polygon: list[float] = []
    for corner in range(_CORNERS):
        angle = 2 * math.pi * corner / _CORNERS
        across, along = rx * math.cos(angle), ry * math.sin(angle)
        px = x + across * math.cos(radians) - along * math.sin(radians)
        py = y + across * math.sin(radians) + along * math.cos(radians)
        if height > 0 and width > 0:
            px, py = min(max(px, 0.0), width), min(max(py, 0.0), height)
        polygon += [round(px, 6), round(py, 6)]
    return polygon


def rotated_box(left: float, top: float, right: float, bottom: float, degrees: float) -> list[float]:
    """Return a box rotated clockwise around its center as a polygon.

    Example:
        >>> [round(value, 6) for value in rotated_box(0, 0, 4, 2, 90)]
        [3.0, -1.0, 3.0, 3.0, 1.0, 3.0, 1.0, -1.0]
    """
    x, y, radians = (left + right) / 2, (top + bottom) / 2, math.radians(degrees)
    polygon: list[float] = []
    for px, py in ((left, top), (right, top), (right, bottom), (left, bottom)):
        across, along = px - x, py - y
        polygon.append(x + across * math.cos(radians) - along * math.sin(radians))
        polygon.append(y + across * math.sin(radians) + along * math.cos(radians))
    return polygon


def pasted_mask(part: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return the run-length encoding of a mask that covers a part of its image.

    Args:
        part: The pixels of the part (h, w).
        left: Column of the first pixel.
        top: Row of the first pixel.
        size: Height and width of the image.

    Raises:
        ValueError: If the part is not inside the image, or the image size is invalid.
    """
    height, width = size
    if not (0 < height < _MAX_SIDE and 0 < width < _MAX_SIDE):
        raise ValueError("its mask needs the height and width of the image, which are missing")
    if left < 0 or top < 0 or top + part.shape[0] > height or left + part.shape[1] > width:
        raise ValueError(f"its mask is not inside the image of {width} x {height} pixels")
    mask = np.zeros(size, dtype=np.bool_)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return encode_rle(mask)
