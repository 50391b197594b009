"""Mask files: the values that are stored, and the classes of the pixels."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_cv.annotations.mask_code import MaskCode
from lit_cv.annotations.reading import open_plain
from lit_cv.annotations.rle import nearest as resized
from lit_cv.annotations.rle import outlines_of_values
from lit_cv.errors import argument
from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.image_formats import loses_bits, open_image, raw_mode

__all__ = ["MaskFact", "inspect_mask", "load_mask", "load_objects"]

_GRAY = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L")
_COLORS = ("RGB", "RGBA", "LA", "PA")
_MOST_VALUES = 4096  # that a mask has: a photograph has more
_MOST_COLORS = 999  # that stand for an object each: numbers from 1000 on would name its class

MaskFact = list[int] | str
"""Height and width, then for each value that occurs the value (-1 if it is a color), its color as 0xRRGGBB (-1 if it
is more than 255), and the number of its pixels; or what is wrong with the file."""


def load_mask(path: Path, size: tuple[int, int] | None = None, code: MaskCode | None = None) -> NDArray[np.uint8]:
    """Read a class mask: the values that are stored, of a palette its indices, or the classes they stand for.

    Args:
        path: The file.
        size: Height and width that it is resized to, without mixing values; `None` keeps its own.
        code: The class of each value; `None` takes the values as they are.

    Returns:
        (H, W) uint8, 255 where the class is unknown.

    Raises:
        ValueError: If it has colors and no `code` names them, or values beyond 255.
    """
    values, palette = _stored(path)
    if size is not None:
        values = resized(values, size)
    if code is not None:
        if code.colors:
            return code.apply(_colors(values, palette))
        return code.apply(values) if values.ndim == 2 else np.full(values.shape[:2], IGNORE_INDEX, dtype=np.uint8)
    if values.ndim == 3:
        raise ValueError(
            f"{path} has colors: a mask holds one class number for each pixel. "
            f"Give a file that names its colors ({argument('palette')})."
        )
    if values.size and values.max() > IGNORE_INDEX:
        raise ValueError(f"{path} holds the value {values.max()}: classes are numbered up to 254, 255 is ignored.")
    return values.astype(np.uint8)


def _stored(path: Path) -> tuple[NDArray[np.integer], NDArray[np.int64] | None]:
    """Return the stored values of a file, (H, W), or (H, W, 3) of colors that are not gray, and its palette."""
    with open_plain(path) as file, open_image(file) as image:
        if loses_bits(image):
            raise ValueError(f"{path} has colors of 16 bits: a mask has 8 bits for each, or gray values. Save it so.")
        if image.mode in _COLORS:
            pixels = np.array(image.convert("RGB"))
            return (pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels), None
        if image.mode not in _GRAY:
            raise ValueError(f"{path} has pixels of the kind {image.mode}: a mask holds a whole number for each pixel.")
        bits = re.match("L;([24])", raw_mode(image))  # the reader stretches fewer bits of gray to 0..255
        values = np.array(image)
        palette = image.getpalette("RGB") if image.mode == "P" else None
    if bits is not None:
        values //= 255 // (2 ** int(bits[1]) - 1)
    if values.size and values.min() < 0:
        raise ValueError(f"{path} holds the value {values.min()}: classes are numbered from 0.")
    return (values.astype(np.uint8) if values.dtype == np.bool_ else values), _packed_palette(palette)


def _packed_palette(palette: Sequence[int] | None) -> NDArray[np.int64] | None:
    if palette is None:
        return None
    colors = np.zeros(256, dtype=np.int64)
    colors[: len(palette) // 3] = _packed(np.array(palette).reshape(-1, 3))
    return colors


def _packed(pixels: NDArray[np.integer]) -> NDArray[np.int64]:
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)


def _colors(values: NDArray[np.integer], palette: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the colors of stored values as 0xRRGGBB, -1 where a value is more than 255."""
    if values.ndim == 3:
        return _packed(values)
    if palette is not None:
        return np.asarray(palette[values])
    return np.where(values > 255, -1, values.astype(np.int64) * 0x010101)


def load_objects(path: Path) -> dict[int, dict[str, Any]]:
    """Return COCO's run-length code of each object in a mask that has a value, or a color, for each; 0 is none.

    Raises:
        ValueError: If it has so many values that it is another picture.
    """
    values, palette = _stored(path)
    colored = values.ndim == 3
    numbers, places = np.unique(_packed(values) if colored else values, return_inverse=True)
    if len(numbers) > (_MOST_COLORS if colored else _MOST_VALUES):
        raise ValueError(f"{path} has {len(numbers):,} different values: that is no mask of objects.")
    if colored:  # counted, black first
        values = places.reshape(values.shape[:2]) + (numbers[0] != 0)
    return outlines_of_values(values, (0,) if palette is None else (0, IGNORE_INDEX))  # 255 are VOC's borders


def inspect_mask(path: Path) -> MaskFact:
    """Return height, width, and which values occur how often in a mask, or what is wrong with it."""
    try:
        values, palette = _stored(path)
    except FileNotFoundError:
        return "there is no such file"
    except Exception as error:  # decoders raise all kinds of errors for broken files
        return str(error).removeprefix(f"{path} ")
    colors = values.ndim == 3
    found, counts = np.unique(_packed(values) if colors else values, return_counts=True)
    if len(found) > _MOST_VALUES:
        return f"it has {len(found):,} different values: that is no mask of classes."
    tints = found if colors else _colors(found, palette)
    numbers = [-1] * len(found) if colors else found.tolist()
    entries = zip(numbers, tints.tolist(), counts.tolist(), strict=True)
    return [*values.shape[:2], *(number for entry in entries for number in entry)]
