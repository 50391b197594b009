"""Image decoders: the only module that depends on decoding libraries.

simplejpeg (libjpeg-turbo) decodes color and gray JPEGs. Pillow decodes all other formats, CMYK, files that simplejpeg
rejects, and everything if simplejpeg is not installed. Both return the same pixels in color; gray values differ by at
most two.
"""

import io
import logging
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from datamodules.jpeg_header import PROGRESSIVE, jpeg_frame, jpeg_size
from lit_cv.errors import argument, setting
from lit_cv.image_formats import loses_bits, open_image, orientation
from lit_cv.printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ValueRange", "decode"]

log = logging.getLogger("lit_cv")

ValueRange = tuple[float, float]
"""Lowest and highest value of gray images with 16 or 32 bits, mapped to 0 and 255."""

_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR = b"\0\0\0\rIHDR"  # length and name of the first chunk of a PNG
_JPEG = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"
_MAX_SCANS = 200  # typical are 10
_GAP = 2  # JPEGs are decoded at a fraction of their size if that is at least this many times the target size
_MAX_VALUE = 65535  # of 16 bits
_DARK = _MAX_VALUE // 4  # values of at most 14 bits probably need a `value_range`
_METADATA = (b"Exif\0", b"http://ns.adobe.com/xap/")  # headers that may contain the orientation of a JPEG


_warned_dark = False  # warn only once


def decode(
    data: bytearray,
    size: tuple[int, int] | None,
    channels: int,
    value_range: ValueRange | None = None,
    name: str | Path = "",
) -> Tensor:
    """Decode an image file to 8 bits, with orientation applied and transparency on white.

    Args:
        data: Content of the file.
        size: Height and width that the image will be resized to: a much larger JPEG is decoded at 1/2, 1/4 or 1/8 of
            its size. `None` decodes at full size.
        channels: 3 for color, 1 for gray.
        value_range: Lowest and highest value of gray images with 16 or 32 bits; `None` means 0 to 65535.
        name: Name of the image in warnings.

    Returns:
        (channels, H, W) uint8, not necessarily contiguous.

    Raises:
        Exception: Any error that a decoder raises for a broken file.
    """
    declared = _declared_size(data)
    if declared is not None:
        _check_pixels(declared)
        _check_scans(data)
        if data.startswith(_JPEG) and (image := _decode_jpeg(data, size, channels)) is not None:
            return image
    return _decode_with_pillow(data, size, channels, value_range, name)


def _declared_size(data: bytearray) -> tuple[int, int] | None:
    """Return height and width from the header of a PNG or JPEG, `None` for other files, which Pillow checks."""
    if data.startswith(_PNG + _IHDR) and len(data) >= 33:
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    return jpeg_size(data) if data.startswith(_JPEG) else None


def _check_pixels(declared: tuple[int, int]) -> None:
    """Apply Pillow's size limit, before another decoder allocates gigabytes for a file of kilobytes."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and declared[0] * declared[1] > 2 * limit:
        raise ValueError(
            f"its header declares {declared[1]} x {declared[0]} pixels, over the limit of {2 * limit:,}: cut it into "
            "tiles, or if you trust it increase PIL.Image.MAX_IMAGE_PIXELS."
        )


def _check_scans(data: bytearray) -> None:
    """Raise if a JPEG has too many scans: each takes twenty bytes, but a pass over all pixels."""
    frame = jpeg_frame(data) if data.startswith(_JPEG) else None
    if frame is not None and frame.marker in PROGRESSIVE and (scans := data.count(_SCAN)) > _MAX_SCANS:
        raise ValueError(f"it has {scans:,} scans, over the limit of {_MAX_SCANS}: save it again.")


def _decode_jpeg(data: bytearray, size: tuple[int, int] | None, channels: int) -> Tensor | None:
    """Return the pixels of a JPEG, or `None` if Pillow has to decode it or report the error."""
    frame = jpeg_frame(data)
    if frame is None or frame.components not in (1, 3):  # CMYK has several conventions
        return None
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    fraction = 1
    if size is not None:
        fraction = next((k for k in (8, 4, 2) if min(frame.height, frame.width) // (_GAP * max(size)) >= k), 1)
    height, width = (-(-side // fraction) for side in (frame.height, frame.width))
    try:
        orientation_tag = _jpeg_orientation(data)
        pixels = decode_jpeg(data, "RGB" if channels == 3 else "GRAY", min_height=height, min_width=width)
    except (ValueError, RuntimeError, OSError):
        return None
    return _upright(_as_image(pixels), orientation_tag)


def _jpeg_orientation(data: bytearray) -> int:
    """Return the EXIF orientation of a JPEG, without Pillow if it has no metadata."""
    if not any(mark in data for mark in _METADATA):
        return 1
    with open_image(io.BytesIO(data)) as image:
        return orientation(image)


def _decode_with_pillow(
    data: bytearray,
    size: tuple[int, int] | None,
    channels: int,
    value_range: ValueRange | None,
    name: str | Path,
) -> Tensor:
    image = open_image(io.BytesIO(data))
    orientation_tag, halved = orientation(image), loses_bits(image)
    if halved and value_range is not None:
        raise ValueError(f"it has 16-bit colors, which {argument('value_range')} does not scale: convert it to 8 bits.")
    if size is not None:
        side = _GAP * max(size)
        image.draft(None, (side, side))
    image.load()
    if image.mode.startswith(("I", "F")):
        image = _scale_to_8_bits(image, value_range, name)
    elif data.startswith(_PNG) and data[24] == 16 and isinstance(image.info.get("transparency"), tuple):
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])  # like its pixels
    mode = "RGB" if channels == 3 else "L"
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if transparent:
        image, mode = image.convert("RGBA"), "RGBA" if channels == 3 else "LA"
    if halved:
        _warn_dark_colors(image, name)
    pixels = _upright(_as_image(np.array(image if image.mode == mode else image.convert(mode))), orientation_tag)
    return _on_white(pixels) if transparent else pixels


def _scale_to_8_bits(image: "Image", value_range: ValueRange | None, name: str | Path) -> "Image":
    from PIL import Image

    values = np.asarray(image)
    if value_range is not None:
        if not np.isfinite(values).all():
            raise ValueError("it has pixels that are not finite.")
        low, high = value_range
        scaled = ((values.clip(low, high).astype(np.float64) - low) * (255 / (high - low))).round().astype(np.uint8)
    else:
        lowest, highest = values.min(), values.max()
        if values.dtype.kind == "f" or lowest < 0 or highest > _MAX_VALUE:
            raise ValueError(
                f"its pixels are {values.dtype} from {lowest} to {highest}: set their lowest and highest value "
                f"({argument('value_range')}), or convert them to 16 bits."
            )
        _warn_dark(int(highest), name)
        scaled = ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
    result = Image.fromarray(scaled)
    if isinstance(clear := image.info.get("transparency"), int):
        result.putalpha(Image.fromarray((values != clear).astype(np.uint8) * 255))
    return result


def _warn_dark(highest: int, name: str | Path) -> None:
    """Warn once, and not in workers, about a dark image whose values do not use all 16 bits."""
    global _warned_dark
    if _warned_dark or not 0 < highest <= _DARK or get_worker_info() is not None:
        return
    _warned_dark = True
    bits = next(bits for bits in (8, 10, 12, 14) if highest < 1 << bits)
    log.warning(
        "%s: its values reach %d of %d, so it is dark. If they have %d bits, set %s.",
        *(printable(str(name), lines=False), highest, _MAX_VALUE, bits, setting("value_range", [0, (1 << bits) - 1])),
    )


def _warn_dark_colors(image: "Image", name: str | Path) -> None:
    """Warn likewise about an image with 16-bit colors, of which the upper 8 bits are read."""
    global _warned_dark
    if _warned_dark or get_worker_info() is not None:
        return
    bands = [band for band in image.getbands() if band not in ("A", "a")]
    highest = max(int(np.asarray(image.getchannel(band)).max()) for band in bands)
    if highest <= _DARK >> 8:
        _warned_dark = True
        log.warning(
            "%s: its colors have 16 bits, of which only the upper 8 are read, so it is dark. Convert such images to 8 "
            "bits per color.",
            printable(str(name), lines=False),
        )


def _as_image(pixels: NDArray[np.uint8]) -> Tensor:
    """Return pixels (H, W) or (H, W, C) as a tensor (C, H, W) that shares their memory."""
    image = torch.from_numpy(pixels)
    return image[None] if image.ndim == 2 else image.permute(2, 0, 1)


def _upright(image: Tensor, orientation: int) -> Tensor:
    """Apply an EXIF orientation to an image."""
    if orientation >= 5:  # rows and columns are swapped
        image = image.transpose(1, 2)
    mirrored = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation, ())
    return image.flip(mirrored) if mirrored else image


def _on_white(image: Tensor) -> Tensor:
    """Blend an image onto white by its last channel, the opacity."""
    color, opacity = image[:-1].to(torch.int32), image[-1:].to(torch.int32)
    return ((color * opacity + 255 * (255 - opacity) + 127) // 255).to(torch.uint8)
