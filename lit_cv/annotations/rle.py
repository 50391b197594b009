"""Outlines of objects as pixels: COCO's run-length codes and polygons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "decode_rle",
    "draw_polygons",
    "encode_rle",
    "outline_area",
    "outline_box",
    "outline_mask",
    "outlines_of_values",
    "rle_counts",
]

Mask = NDArray[np.bool_]

_MOST = 1 << 16  # pixels that a side has: more would take gigabytes to unpack


def rle_counts(rle: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the lengths of the runs, of 0 and 1 in turn, column by column.

    Args:
        rle: `size` (height, width) and `counts`: a list, or COCO's compressed string.

    Raises:
        ValueError: If they do not fill the size.

    Example:
        >>> rle_counts({"size": [3, 3], "counts": "1320"}).tolist()
        [1, 3, 2, 3]
    """
    counts = rle["counts"]
    runs = _unpack(counts) if isinstance(counts, str | bytes) else np.asarray(counts, dtype=np.int64)
    height, width = rle["size"]
    if not all(isinstance(side, int) and 0 <= side < _MOST for side in (height, width)):
        raise ValueError(f"its size {rle['size']} is not that of an image")
    covered = sum(runs.reshape(-1).tolist())  # in Python: a sum of 64 bits can come round to the right number
    if runs.ndim != 1 or (runs < 0).any() or covered != height * width:
        raise ValueError(f"its runs cover {covered} pixels of {height} x {width}")
    return runs


def decode_rle(rle: Mapping[str, Any]) -> Mask:
    """Return the pixels of a run-length code, (H, W) bool."""
    runs = rle_counts(rle)
    height, width = rle["size"]
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.asarray(values.reshape(width, height).T, dtype=np.bool_)


def encode_rle(mask: Mask) -> dict[str, Any]:
    """Return COCO's compressed code of a mask (H, W).

    Example:
        >>> encode_rle(np.array([[False, True], [False, True]]))
        {'size': [2, 2], 'counts': '22'}
    """
    flat = np.asarray(mask, dtype=bool).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    if flat.size and flat[0]:
        runs = np.concatenate([[0], runs])
    return {"size": [int(side) for side in mask.shape], "counts": _pack(runs)}


def outlines_of_values(values: NDArray[np.integer], left_out: Sequence[int] = (0,)) -> dict[int, dict[str, Any]]:
    """Return COCO's compressed code of the pixels of each value (H, W), in the order of the values.

    Example:
        >>> outlines_of_values(np.array([[0, 7], [3, 7]]))
        {3: {'size': [2, 2], 'counts': '112'}, 7: {'size': [2, 2], 'counts': '22'}}
    """
    flat = values.T.reshape(-1)
    places = np.flatnonzero(~np.isin(flat, left_out))
    places = places[np.argsort(flat[places], kind="stable")]
    numbers = flat[places]
    found = {}
    for part in np.split(places, np.flatnonzero(numbers[1:] != numbers[:-1]) + 1) if len(places) else ():
        breaks = np.flatnonzero(np.diff(part) != 1)
        starts, ends = part[np.append(0, breaks + 1)], part[np.append(breaks, len(part) - 1)] + 1
        runs = np.diff(np.concatenate([[0], np.stack([starts, ends], 1).reshape(-1), [flat.size]]))
        counts = _pack(runs[: len(runs) - (runs[-1] == 0)])
        found[int(flat[part[0]])] = {"size": [int(side) for side in values.shape], "counts": counts}
    return found


def _unpack(counts: str | bytes) -> NDArray[np.int64]:
    """Read five bits a character, the sixth saying that more follow; from the fourth on, runs are differences."""
    data = counts.encode() if isinstance(counts, str) else counts
    bits = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        raise ValueError("its counts are no run-length code of COCO's")
    ends = np.flatnonzero((bits & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    shift = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    values = np.add.reduceat((bits & 31) << shift, starts)
    values -= np.where(bits[ends] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _pack(runs: NDArray[np.int64]) -> str:
    differences = runs.copy()
    differences[3:] -= runs[1:-2]
    text = bytearray()
    for value in differences.tolist():
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(48 + bits + (32 if more else 0))
    return text.decode()


def draw_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Mask:
    """Return the pixels whose centers lie in any of the polygons, (H, W) bool.

    Args:
        polygons: Each [x0, y0, x1, y1, ...] in pixels.
        height: Height in pixels.
        width: Width in pixels.

    Example:
        >>> draw_polygons([[1, 0, 3, 0, 3, 2, 1, 2]], 2, 4).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        first = max(0, int(np.floor(points[:, 1].min())))
        last = min(height, int(np.ceil(points[:, 1].max())))
        if first < last:
            mask[first:last] |= _fill(points, first, last, width)
    return mask


def _fill(points: NDArray[np.float64], first: int, last: int, width: int) -> Mask:
    """Return rows of pixels in a polygon: an edge turns inside to outside for all pixels to its right."""
    x0, y0 = points.T[:, None, :]
    x1, y1 = np.roll(points, -1, axis=0).T[:, None, :]
    y = (np.arange(first, last) + 0.5)[:, None]
    row, edge = np.nonzero((y0 <= y) != (y1 <= y))
    a, b, c, d = (v[0, edge] for v in (x0, y0, x1, y1))
    crossing = a + (y[row, 0] - b) / (d - b) * (c - a)
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    turns = np.bincount(row * (width + 1) + column, minlength=(last - first) * (width + 1))
    inside = np.cumsum(turns.reshape(last - first, width + 1), axis=1) % 2 == 1
    return np.asarray(inside[:, :width], dtype=np.bool_)


def outline_mask(outline: Any, size: tuple[int, int], fitted: tuple[int, int] | None = None) -> Mask:
    """Return the pixels of polygons or a run-length code.

    Args:
        outline: The polygons or the code, in pixels of an image.
        size: Height and width of that image.
        fitted: Height and width that it is resized to; `None` keeps its own.
    """
    height, width = fitted or size
    if isinstance(outline, Mapping):
        return np.asarray(nearest(decode_rle(outline), (height, width)), dtype=np.bool_)
    scale = (width / size[1], height / size[0])
    scaled = [[value * scale[i % 2] for i, value in enumerate(polygon)] for polygon in outline]
    return draw_polygons(scaled, height, width)


def nearest(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return an image (H, W, ...) at another size: of each new pixel the old one at its center."""
    if pixels.shape[:2] == size:
        return pixels
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for old, new in zip(pixels.shape[:2], size, strict=True)
    )
    return np.asarray(pixels[rows[:, None], columns])


def outline_area(outline: Any) -> float:
    """Return the area of polygons (that of each, added up) or of a run-length code in pixels."""
    if isinstance(outline, Mapping):
        return float(rle_counts(outline)[1::2].sum())
    area = 0.0
    for polygon in outline:
        x, y = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area


def outline_box(outline: Any) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of polygons or a run-length code; all 0 if it is empty."""
    if isinstance(outline, Mapping):
        mask = decode_rle(outline)
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        return (float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)) if len(x) else (0.0, 0.0, 0.0, 0.0)
    points = np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in outline])
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right, bottom
