"""Reading of mask files: stored values, and classes of the pixels."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_cv.annotations.mask_code import MaskCode
from lit_cv.annotations.reading import open_plain
from lit_cv.annotations.rle import outlines_of_values, resize_nearest
from lit_cv.errors import argument
from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.image_formats import loses_bits, open_image, raw_mode

__all__ = ["MaskFact", "inspect_mask", "load_mask", "load_objects"]

_GRAY = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L")
_COLORS = ("RGB", "RGBA", "LA", "PA")
_MAX_VALUES = 4096  # of a mask; photographs have more
_MAX_COLORS = 999  # of objects in a mask: numbers from 1000 on would encode a class

MaskFact = list[int] | str
"""Height and width, then for each value that occurs: the value (-1 if it is a color), its color as 0xRRGGBB (-1 if the
value exceeds 255), and its number of pixels; or a string that describes the problem with the file."""


def load_mask(path: Path, size: tuple[int, int] | None = None, code: MaskCode | None = None) -> NDArray[np.uint8]:
    """Read a class mask: its stored values (palette indices if it has a palette), or their classes.

    Args:
        path: The file.
        size: Height and width to resize to, by nearest neighbor; `None` keeps the size.
        code: The class of each value; `None` returns the stored values.

    Returns:
        (H, W) uint8, 255 where the class is unknown.

    Raises:
        ValueError: If it has colors but `code` has none, or values above 255.
    """
    values, palette = _stored(path)
    if size is not None:
        values = resize_nearest(values, size)
    if code is not None:
        if code.colors:
            return code.apply(_colors(values, palette))
        return code.apply(values) if values.ndim == 2 else np.full(values.shape[:2], IGNORE_INDEX, dtype=np.uint8)
    if values.ndim == 3:
        raise ValueError(
            f"{path} has colors: a mask needs one class number per pixel. "
            f"Give a file that names the colors ({argument('palette')})."
        )
    if values.size and values.max() > IGNORE_INDEX:
        raise ValueError(f"{path} contains the value {values.max()}: classes are 0 to 254, and 255 is ignored.")
    return values.astype(np.uint8)


def _stored(path: Path) -> tuple[NDArray[np.integer], NDArray[np.int64] | None]:
    """Return the stored values of a file, (H, W), or (H, W, 3) if its colors are not gray, and its palette."""
    with open_plain(path) as file, open_image(file) as image:
        if loses_bits(image):
            raise ValueError(f"{path} has 16-bit colors: masks have 8-bit colors or gray values. Convert it.")
        if image.mode in _COLORS:
            pixels = np.array(image.convert("RGB"))
            return (pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels), None
        if image.mode not in _GRAY:
            raise ValueError(f"{path} has pixel mode {image.mode}: a mask needs one integer per pixel.")
        bits = re.match("L;([24])", raw_mode(image))  # Pillow stretches fewer bits of gray to 0..255
        values = np.array(image)
        palette = image.getpalette("RGB") if image.mode == "P" else None
    if bits is not None:
        values //= 255 // (2 ** int(bits[1]) - 1)
    if values.size and values.min() < 0:
        raise ValueError(f"{path} contains the value {values.min()}: classes start at 0.")
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
    """Return the colors of stored values as 0xRRGGBB, -1 where a value exceeds 255."""
    if values.ndim == 3:
        return _packed(values)
    if palette is not None:
        return np.asarray(palette[values])
    return np.where(values > 255, -1, values.astype(np.int64) * 0x010101)


def load_objects(path: Path) -> dict[int, dict[str, Any]]:
    """Return the COCO run-length encoding of each object in a mask with one value or color per object; 0 is none.

    Raises:
        ValueError: If it has too many values for a mask.
    """
    values, palette = _stored(path)
    colored = values.ndim == 3
    numbers, inverse = np.unique(_packed(values) if colored else values, return_inverse=True)
    if len(numbers) > (_MAX_COLORS if colored else _MAX_VALUES):
        raise ValueError(f"{path} has {len(numbers):,} different values: too many for a mask of objects.")
    if colored:  # number the colors, black as 0
        values = inverse.reshape(values.shape[:2]) + (numbers[0] != 0)
    return outlines_of_values(values, (0,) if palette is None else (0, IGNORE_INDEX))  # 255 marks borders in VOC


def inspect_mask(path: Path) -> MaskFact:
    """Return the size of a mask and how often each value occurs, or a string that describes the problem."""
    try:
        values, palette = _stored(path)
    except FileNotFoundError:
        return "there is no such file"
    except Exception as error:  # decoders raise all kinds of errors for broken files
        return str(error).removeprefix(f"{path} ")
    colors = values.ndim == 3
    distinct, counts = np.unique(_packed(values) if colors else values, return_counts=True)
    if len(distinct) > _MAX_VALUES:
        return f"it has {len(distinct):,} different values: too many for a class mask."
    value_colors = distinct if colors else _colors(distinct, palette)
    numbers = [-1] * len(distinct) if colors else distinct.tolist()
    entries = zip(numbers, value_colors.tolist(), counts.tolist(), strict=True)
    return [*values.shape[:2], *(number for entry in entries for number in entry)]
