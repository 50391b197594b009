"""From an image file to a uint8 tensor."""

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_SUFFIXES", "UnreadableImageError", "decode_image", "fit", "read_image", "read_whole"]

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .tga"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_GAP = 2  # a JPEG is decoded at a fraction of its size as long as that leaves twice the pixels wanted


class UnreadableImageError(OSError):
    """An image file that is broken, truncated or of an unknown format; the message names it."""


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
    with open(path, "rb") as file:
        return bytearray(file.read())  # torch wants a buffer that it could write to


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
        reason = _reason(error) if data else "it is empty"
        raise UnreadableImageError(f"cannot read the image {name}: {reason}") from error


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
    _check_pixels(data)
    if data.startswith(_PNG) or (data.startswith(_JPEG) and not _is_far_larger(data, size)):
        # PIL may take a file that torchvision refuses, and stands in where torchvision no longer decodes.
        with contextlib.suppress(RuntimeError, ImportError):
            return _decode_with_torchvision(data, channels)
    return _decode_with_pil(data, size, channels)


def _check_pixels(data: bytearray) -> None:
    """Refuse what PIL refuses, before torchvision, which has no limit, takes gigabytes for a file of kilobytes."""
    from PIL import Image

    found = None
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        found = (height, width)
    elif data.startswith(_JPEG):
        found = _jpeg_size(data)
    limit = Image.MAX_IMAGE_PIXELS
    if found is not None and limit is not None and found[0] * found[1] > 2 * limit:
        raise ValueError(
            f"it says that it has {found[1]} x {found[0]} pixels, more than {2 * limit:,}: cut it into tiles, or if it "
            "is to be trusted raise PIL.Image.MAX_IMAGE_PIXELS."
        )


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
    from PIL import Image, ImageOps

    image: Image.Image = Image.open(io.BytesIO(data))
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


def _is_far_larger(data: bytearray, size: tuple[int, int] | None) -> bool:
    """Tell whether a JPEG can be decoded at half its size or less."""
    if size is None:
        return False
    found = _jpeg_size(data)
    return found is not None and min(found) >= 2 * _GAP * max(size)


def _jpeg_size(data: bytearray) -> tuple[int, int] | None:
    """Return height and width from a JPEG's frame header, `None` where it has none."""
    at = 2
    while at + 9 < len(data):
        marker = data[at + 1]
        if data[at] != 0xFF:
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        # fill bytes and markers without a length are one and two bytes long
        if marker == 0xFF:
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None
