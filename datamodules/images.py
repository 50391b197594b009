"""From an image file to a uint8 tensor."""

import contextlib
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.image_formats import IMAGE_SUFFIXES, open_image, why_no_image_file
from lit_cv.printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_SUFFIXES", "UnreadableImageError", "decode_image", "fit", "read_image", "read_into", "read_whole"]

_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR = b"\0\0\0\rIHDR"  # the chunk that a PNG starts with: its length and name
_JPEG = b"\xff\xd8\xff"
_PROGRESSIVE = (0xC2, 0xCA)  # markers of frames whose pixels come in several passes
_SCAN = b"\xff\xda"
_MOST_SCANS = 200  # usual are 10
_GAP = 2  # a JPEG is decoded at a fraction of its size as long as that leaves twice the pixels wanted


class UnreadableImageError(OSError):
    """An image file that is broken, truncated or of an unknown format; the message names it.

    Attributes:
        reason: What is wrong with it, without its name; empty where the error comes from a worker process.
    """

    reason = ""

    @classmethod
    def of(cls, name: str | Path, reason: str) -> Self:
        """Return the error of an image, with a name and a reason that a terminal can show."""
        reason = printable(reason, lines=False)
        error = cls(f"cannot read the image {printable(str(name), lines=False)}: {reason}")
        error.reason = reason
        return error


def read_image(path: str | Path, size: int | tuple[int, int] | None = None, channels: Literal[1, 3] = 3) -> Tensor:
    """Read an image file of any usual format.

    torchvision decodes JPEG and PNG, PIL everything else, and JPEGs that are much larger than `size`, which it
    decodes at 1/2, 1/4 or 1/8 of their size. The EXIF orientation is applied, transparency is put on white,
    16 bits are scaled to 8, of an animation the first picture is taken.

    Args:
        path: The file.
        size: Side, or height and width, in pixels: the centered part of that shape is cut out, as large as
            possible, and resized with antialiasing. `None` keeps the image as it is.
        channels: 3 for color, 1 for grey.

    Returns:
        (channels, H, W) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it cannot be decoded.
    """
    return decode_image(_content(path), path, size, channels)


def decode_image(
    data: bytearray, name: str | Path, size: int | tuple[int, int] | None = None, channels: Literal[1, 3] = 3
) -> Tensor:
    """Decode the content of an image file as `read_image` does.

    Args:
        data: The whole content.
        name: What an error calls it.
        size: Side, or height and width, in pixels; `None` keeps the image as it is.
        channels: 3 for color, 1 for grey.

    Returns:
        (channels, H, W) uint8.

    Raises:
        UnreadableImageError: If it cannot be decoded.
    """
    return _decode_and(fit, data, name, (size, size) if isinstance(size, int) else size, channels)


def read_whole(
    path: str | Path,
    size: tuple[int, int] | None = None,
    channels: Literal[1, 3] = 3,
    expected: tuple[int, int] | None = None,
) -> Tensor:
    """Read an image file as `read_image` does, but nothing is cut off: the whole image is resized.

    Args:
        path: The file.
        size: Height and width in pixels; `None` keeps the image as it is.
        channels: 3 for color, 1 for grey.
        expected: Height and width that the file is known to have; `None` takes any.

    Returns:
        (channels, H, W) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it cannot be decoded, or is of another size than expected.
    """

    def resize(image: Tensor, size: tuple[int, int] | None) -> Tensor:
        found = (image.shape[1], image.shape[2])
        if expected is not None and not any(_fraction(expected, k) == found for k in (1, 2, 4, 8)):
            raise ValueError(
                f"it has changed, it had {expected[1]} x {expected[0]} pixels when its annotations were checked"
            )
        return _resize(image, size)

    return _decode_and(resize, _content(path), path, size, channels)


def _fraction(size: tuple[int, int], k: int) -> tuple[int, int]:
    """Return the size of a JPEG that is decoded at 1 / k of it."""
    return -(-size[0] // k), -(-size[1] // k)


def _content(path: str | Path) -> bytearray:
    try:
        # a pipe that nobody writes to would be waited for
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        if os.path.islink(path):
            raise UnreadableImageError.of(path, "it is a link to a file that does not exist") from None
        raise
    found = os.fstat(handle)
    if reason := why_no_image_file(found):
        os.close(handle)
        raise UnreadableImageError.of(path, reason)
    with open(handle, "rb", buffering=0) as file:
        return read_into(bytearray(found.st_size), file)  # torch wants a buffer that it could write to


def read_into(data: bytearray, file: IO[bytes]) -> bytearray:
    """Fill a buffer from an unbuffered file, and return it; it ends where the file ends."""
    view, filled = memoryview(data), 0
    while count := file.readinto(view[filled:]):  # type: ignore[attr-defined]
        filled += count
    view.release()
    del data[filled:]
    return data


def _decode_and(
    resize: Callable[[Tensor, tuple[int, int] | None], Tensor],
    data: bytearray,
    name: str | Path,
    size: tuple[int, int] | None,
    channels: Literal[1, 3],
) -> Tensor:
    try:
        return resize(_decode(data, size, channels), size)
    except Exception as error:  # decoders raise all kinds of errors for broken files
        raise UnreadableImageError.of(name, _reason(error) if data else "it is empty") from error


def _reason(error: Exception) -> str:
    unknown = type(error).__name__ == "UnidentifiedImageError"
    return "it is no image" if unknown else (str(error).splitlines() or [type(error).__name__])[0]


def fit(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Cut out the largest centered part of the shape of `size` and resize it with antialiasing.

    Args:
        image: (C, H, W) uint8.
        size: Height and width in pixels; `None` keeps the image as it is.

    Example:
        >>> fit(torch.zeros(3, 40, 100, dtype=torch.uint8), (20, 20)).shape
        torch.Size([3, 20, 20])
    """
    if size is None or image.shape[1:] == size:
        return image
    height, width = image.shape[1:]
    scale = min(height / size[0], width / size[1])
    part = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (height - part[0]) // 2, (width - part[1]) // 2
    image = image[:, top : top + part[0], left : left + part[1]]
    return _resize(image, size)


def _resize(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or image.shape[1:] == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _decode(data: bytearray, size: tuple[int, int] | None, channels: int) -> Tensor:
    declared = _declared_size(data)
    if declared is not None:
        _check_pixels(declared)
        _check_scans(data)
        if data.startswith(_PNG) or not _is_far_larger(declared, size):
            # PIL may take a file that torchvision refuses, and stands in where torchvision no longer decodes.
            with contextlib.suppress(RuntimeError, ImportError):
                return _decode_with_torchvision(data, channels)
    return _decode_with_pil(data, size, channels)


def _declared_size(data: bytearray) -> tuple[int, int] | None:
    """Return height and width from the header of a PNG or JPEG, `None` for any other file, which PIL decodes."""
    if data.startswith(_PNG + _IHDR) and len(data) >= 33:
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    return _jpeg_size(data) if data.startswith(_JPEG) else None


def _check_pixels(declared: tuple[int, int]) -> None:
    """Refuse what PIL refuses, before torchvision, which has no limit, takes gigabytes for a file of kilobytes."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and declared[0] * declared[1] > 2 * limit:
        raise ValueError(
            f"its header declares {declared[1]} x {declared[0]} pixels, more than {2 * limit:,}: cut it into tiles, or "
            "if it is to be trusted raise PIL.Image.MAX_IMAGE_PIXELS."
        )


def _check_scans(data: bytearray) -> None:
    """Refuse a JPEG that refines its pixels again and again: twenty bytes each time, and a pass over all pixels."""
    frame = _jpeg_frame(data) if data.startswith(_JPEG) else None
    if frame is not None and frame[0] in _PROGRESSIVE and (scans := data.count(_SCAN)) > _MOST_SCANS:
        raise ValueError(f"it has {scans:,} scans, more than {_MOST_SCANS}: save it again.")


def _decode_with_torchvision(data: bytearray, channels: int) -> Tensor:
    from torchvision.io import ImageReadMode, decode_image

    transparent = data.startswith(_PNG) and (data[25] in (4, 6) or b"tRNS" in data[: data.find(b"IDAT")])
    mode = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}[channels]
    if transparent:
        mode = {1: ImageReadMode.GRAY_ALPHA, 3: ImageReadMode.RGB_ALPHA}[channels]
    image = decode_image(torch.frombuffer(data, dtype=torch.uint8), mode, apply_exif_orientation=True)
    if image.dtype == torch.uint16:
        image = ((image.to(torch.int32) + 128) // 257).to(torch.uint8)
    return _on_white(image) if transparent else image


def _decode_with_pil(data: bytearray, size: tuple[int, int] | None, channels: int) -> Tensor:
    from PIL import ImageOps

    image = open_image(io.BytesIO(data))
    if size is not None:
        side = _GAP * max(size)
        image.draft(None, (side, side))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _scale_to_8_bits(image)
    mode = "RGB" if channels == 3 else "L"
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if transparent:
        image, mode = image.convert("RGBA"), "RGBA" if channels == 3 else "LA"
    image = image.convert(mode)
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    return _on_white(pixels) if transparent else pixels


def _scale_to_8_bits(image: "Image") -> "Image":
    from PIL import Image

    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels are {values.dtype} from {values.min()} to {values.max()}: scale them to 16 bits.")
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))


def _on_white(image: Tensor) -> Tensor:
    """Put an image whose last channel is its opacity on a white ground."""
    color, opacity = image[:-1].to(torch.int32), image[-1:].to(torch.int32)
    return ((color * opacity + 255 * (255 - opacity) + 127) // 255).to(torch.uint8)


def _is_far_larger(declared: tuple[int, int], size: tuple[int, int] | None) -> bool:
    """Return whether a JPEG can be decoded at half its size or less."""
    return size is not None and min(declared) >= 2 * _GAP * max(size)


def _jpeg_size(data: bytearray) -> tuple[int, int] | None:
    """Return height and width of a JPEG, `None` where it has no frame header."""
    frame = _jpeg_frame(data)
    return None if frame is None else frame[1:]


def _jpeg_frame(data: bytearray) -> tuple[int, int, int] | None:
    """Return marker, height and width from a JPEG's frame header, `None` where it has none.

    Markers are looked for as libjpeg does, which skips stray bytes before them.
    """
    at = 2
    while (at := data.find(0xFF, at)) >= 0:
        while at < len(data) and data[at] == 0xFF:  # fill bytes
            at += 1
        if at + 8 > len(data):
            return None
        marker = data[at]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 4 : at + 8])
            return marker, height, width
        if marker in (0xD9, 0xDA):  # the end of the image, or its pixels
            return None
        if marker == 0x00 or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            at += 1
        else:
            at += 1 + struct.unpack(">H", data[at + 1 : at + 3])[0]
    return None
