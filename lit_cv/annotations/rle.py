"""Pixels of object outlines: COCO run-length encodings and polygons.

COCO's algorithms encode masks and draw polygons. They do not check memory bounds, so sizes, runs and coordinates are
checked here first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import mask as coco
from numpy.typing import NDArray

__all__ = [
    "decode_rle",
    "draw_polygons",
    "encode_rle",
    "outline_area",
    "outline_box",
    "outline_mask",
    "outlines_of_values",
    "polygon_points",
    "resize_nearest",
    "rle_counts",
]

Mask = NDArray[np.bool_]

_MAX_SIDE = 1 << 16  # pixels per side; larger images would take gigabytes to unpack
_MAX_PIXELS = (1 << 31) - 1  # of an image with polygons, as COCO counts pixels in 32 bits
_MAX_LENGTH = 1 << 22  # pixels along a polygon; drawing takes about 100 bytes for each


def rle_counts(rle: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the run lengths of alternating 0s and 1s, in column order.

    Args:
        rle: `size` (height, width) and `counts`: a list, or COCO's compressed string.

    Raises:
        ValueError: If they are invalid or do not fill the size.

    Example:
        >>> rle_counts({"size": [3, 3], "counts": "1320"}).tolist()
        [1, 3, 2, 3]
    """
    counts = rle["counts"]
    runs = _unpack(counts) if isinstance(counts, str | bytes) else np.asarray(counts, dtype=np.int64)
    height, width = rle["size"]
    if not all(isinstance(side, int) and 0 <= side < _MAX_SIDE for side in (height, width)):
        raise ValueError(f"its size {rle['size']} is not a valid image size")
    covered = sum(runs.reshape(-1).tolist())  # Python integers, as a 64-bit sum could overflow to the right number
    if runs.ndim != 1 or (runs < 0).any() or covered != height * width:
        raise ValueError(f"its runs cover {covered} pixels, not {height} x {width}")
    return runs


def decode_rle(rle: Mapping[str, Any]) -> Mask:
    """Return the pixels of a run-length encoding, (H, W) bool."""
    runs = rle_counts(rle)
    height, width = rle["size"]
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.asarray(values.reshape(width, height).T, dtype=np.bool_)


def encode_rle(mask: Mask) -> dict[str, Any]:
    """Return the compressed COCO RLE of a mask (H, W).

    Example:
        >>> encode_rle(np.array([[False, True], [False, True]]))
        {'size': [2, 2], 'counts': '22'}
    """
    code = coco.encode(np.asfortranarray(np.asarray(mask, dtype=bool), dtype=np.uint8))
    return {**code, "counts": code["counts"].decode()}


def outlines_of_values(values: NDArray[np.integer], ignored: Sequence[int] = (0,)) -> dict[int, dict[str, Any]]:
    """Return the compressed COCO RLE of the pixels of each value in an array (H, W), sorted by value.

    Example:
        >>> outlines_of_values(np.array([[0, 7], [3, 7]]))
        {3: {'size': [2, 2], 'counts': '112'}, 7: {'size': [2, 2], 'counts': '22'}}
    """
    flat = values.T.reshape(-1)
    positions = np.flatnonzero(~np.isin(flat, ignored))
    positions = positions[np.argsort(flat[positions], kind="stable")]
    numbers = flat[positions]
    outlines = {}
    for part in np.split(positions, np.flatnonzero(numbers[1:] != numbers[:-1]) + 1) if len(positions) else ():
        breaks = np.flatnonzero(np.diff(part) != 1)
        starts, ends = part[np.append(0, breaks + 1)], part[np.append(breaks, len(part) - 1)] + 1
        runs = np.diff(np.concatenate([[0], np.stack([starts, ends], 1).reshape(-1), [flat.size]]))
        outlines[int(flat[part[0]])] = _packed(runs[: len(runs) - (runs[-1] == 0)], values.shape)
    return outlines


def _unpack(counts: str | bytes) -> NDArray[np.int64]:
    """Decode COCO's string: 5 bits per character and a continuation bit; runs from the fourth on are differences."""
    data = counts.encode() if isinstance(counts, str) else counts
    bits = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        raise ValueError("its counts are not valid COCO RLE counts")
    ends = np.flatnonzero((bits & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    shift = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    values = np.add.reduceat((bits & 31) << shift, starts)
    values -= np.where(bits[ends] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _packed(runs: NDArray[np.int64], size: Sequence[int]) -> dict[str, Any]:
    """Return the compressed COCO RLE of runs as returned by `rle_counts`."""
    height, width = map(int, size)
    code = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {**code, "counts": code["counts"].decode()}


def polygon_points(polygon: Sequence[float]) -> NDArray[np.float64]:
    """Return the points (P, 2) of a polygon [x0, y0, x1, y1, ...] with at least three points.

    Raises:
        ValueError: If it has fewer points, a coordinate is not finite or too large, or it is too long to draw.

    Example:
        >>> polygon_points([0, 0, 4, 0, 4, 3]).tolist()
        [[0.0, 0.0], [4.0, 0.0], [4.0, 3.0]]
    """
    values = np.asarray(polygon, dtype=np.float64)
    if values.size < 6 or values.size % 2:
        raise ValueError(f"its polygon has {values.size} numbers: an even number of at least 6 is needed")
    if not np.isfinite(values).all():
        raise ValueError("its polygon has a value that is not finite")
    if (farthest := np.abs(values).max()) > _MAX_SIDE:
        raise ValueError(f"its polygon has a coordinate {farthest:g}: at most {_MAX_SIDE} is allowed")
    points = values.reshape(-1, 2)
    if (length := np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()) > _MAX_LENGTH:
        raise ValueError(f"its polygon is {length:.0f} pixels long: at most {_MAX_LENGTH} is allowed")
    return points


def draw_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Mask:
    """Return the pixels inside any of the polygons, drawn like COCO, (H, W) bool.

    Args:
        polygons: Each [x0, y0, x1, y1, ...] in pixels.
        height: Height in pixels.
        width: Width in pixels.

    Raises:
        ValueError: If a polygon is invalid, or the image size is.

    Example:
        >>> draw_polygons([[1, 0, 3, 0, 3, 2, 1, 2]], 2, 4).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    if not (0 < height < _MAX_SIDE and 0 < width < _MAX_SIDE and height * width <= _MAX_PIXELS):
        raise ValueError(f"polygons cannot be drawn in an image of {width} x {height} pixels")
    coordinates = [polygon_points(polygon).reshape(-1).tolist() for polygon in polygons]
    if not coordinates:
        return np.zeros((height, width), dtype=np.bool_)
    return np.asarray(coco.decode(coco.segmToRle(coordinates, width, height)), dtype=np.bool_)


def outline_mask(outline: Any, size: tuple[int, int], fitted: tuple[int, int] | None = None) -> Mask:
    """Return the pixels of polygons or a run-length encoding.

    Args:
        outline: The polygons or the encoding, in pixels of an image.
        size: Height and width of that image.
        fitted: Height and width to resize to; `None` keeps the size.
    """
    height, width = fitted or size
    if isinstance(outline, Mapping):
        return np.asarray(resize_nearest(decode_rle(outline), (height, width)), dtype=np.bool_)
    scale = (width / size[1], height / size[0])
    scaled = [[value * scale[i % 2] for i, value in enumerate(polygon)] for polygon in outline]
    return draw_polygons(scaled, height, width)


def resize_nearest(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize an image (H, W, ...) by nearest neighbor: each new pixel is the old one at its center."""
    if pixels.shape[:2] == size:
        return pixels
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for old, new in zip(pixels.shape[:2], size, strict=True)
    )
    return np.asarray(pixels[rows[:, None], columns])


def outline_area(outline: Any) -> float:
    """Return the area in pixels of a run-length encoding, or the sum of the areas of polygons."""
    if isinstance(outline, Mapping):
        return float(rle_counts(outline)[1::2].sum())
    area = 0.0
    for polygon in outline:
        x, y = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area


def outline_box(outline: Any) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of polygons or a run-length encoding; all 0 if it is empty."""
    if isinstance(outline, Mapping):
        runs = rle_counts(outline)
        if not runs[1::2].any():
            return 0.0, 0.0, 0.0, 0.0
        x, y, width, height = coco.toBbox(_packed(runs, outline["size"])).tolist()
        return x, y, x + width, y + height
    points = np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in outline])
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right, bottom
