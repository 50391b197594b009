"""Reading of image files as uint8 tensors."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, Self

import torch.nn.functional as F
from torch import Tensor

from datamodules.decoding import ValueRange, decode
from lit_cv.image_formats import IMAGE_SUFFIXES, image_file_problem
from lit_cv.printable import printable

__all__ = ["IMAGE_SUFFIXES", "UnreadableImageError", "decode_image", "fit", "read_image", "read_into", "read_whole"]


class UnreadableImageError(OSError):
    """An image file is broken, truncated or of an unknown format; the message names it.

    Attributes:
        reason: Description of the problem without the file name; empty if the error comes from a worker process.
    """

    reason = ""

    @classmethod
    def of(cls, name: str | Path, reason: str) -> Self:
        """Return the error for an image, with name and reason in printable form."""
        reason = printable(reason, lines=False)
        error = cls(f"cannot read the image {printable(str(name), lines=False)}: {reason}")
        error.reason = reason
        return error


def read_image(
    path: str | Path,
    size: int | tuple[int, int] | None = None,
    channels: Literal[1, 3] = 3,
    value_range: ValueRange | None = None,
) -> Tensor:
    """Read an image file of any common format.

    JPEGs that are much larger than `size` are decoded at 1/2, 1/4 or 1/8 of their size. The orientation from EXIF, or
    else from XMP, is applied, transparency is blended onto white, 16 bits are scaled to 8, and the first frame of an
    animation is used.

    Args:
        path: The file.
        size: Side, or height and width, in pixels: the largest centered part of that shape is cropped and resized with
            antialiasing. `None` keeps the image unchanged.
        channels: 3 for color, 1 for gray.
        value_range: Lowest and highest value of gray images with 16 or 32 bits, mapped to 0 and 255; `None` means 0 to
            65535.

    Returns:
        (channels, H, W) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it cannot be decoded.
    """
    return decode_image(_content(path), path, size, channels, value_range)


def decode_image(
    data: bytearray,
    name: str | Path,
    size: int | tuple[int, int] | None = None,
    channels: Literal[1, 3] = 3,
    value_range: ValueRange | None = None,
) -> Tensor:
    """Decode the content of an image file, see `read_image`.

    Args:
        data: Content of the file.
        name: Name of the image in errors.
        size: Side, or height and width, in pixels; `None` keeps the image unchanged.
        channels: 3 for color, 1 for gray.
        value_range: See `read_image`.

    Returns:
        (channels, H, W) uint8.

    Raises:
        UnreadableImageError: If it cannot be decoded.
    """
    return _decode_and(fit, data, name, (size, size) if isinstance(size, int) else size, channels, value_range)


def read_whole(
    path: str | Path,
    size: tuple[int, int] | None = None,
    channels: Literal[1, 3] = 3,
    expected: tuple[int, int] | None = None,
    value_range: ValueRange | None = None,
) -> Tensor:
    """Read an image file like `read_image`, but resize the entire image without cropping.

    Args:
        path: The file.
        size: Height and width in pixels; `None` keeps the image unchanged.
        channels: 3 for color, 1 for gray.
        expected: Expected height and width of the file; `None` accepts any.
        value_range: See `read_image`.

    Returns:
        (channels, H, W) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it cannot be decoded, or its size is not the expected one.
    """

    def resize(image: Tensor, size: tuple[int, int] | None) -> Tensor:
        decoded = (image.shape[1], image.shape[2])
        if expected is not None and not any(_fraction(expected, k) == decoded for k in (1, 2, 4, 8)):
            raise ValueError(
                f"it has changed: it had {expected[1]} x {expected[0]} pixels when its annotations were checked"
            )
        return _resize(image, size)

    return _decode_and(resize, _content(path), path, size, channels, value_range)


def _fraction(size: tuple[int, int], k: int) -> tuple[int, int]:
    """Return the size of a JPEG that is decoded at 1/k of its size."""
    return -(-size[0] // k), -(-size[1] // k)


def _content(path: str | Path) -> bytearray:
    try:
        # do not block on a pipe without a writer
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        if os.path.islink(path):
            raise UnreadableImageError.of(path, "it is a link to a file that does not exist") from None
        raise
    state = os.fstat(handle)
    if reason := image_file_problem(state):
        os.close(handle)
        raise UnreadableImageError.of(path, reason)
    with open(handle, "rb", buffering=0) as file:
        return read_into(bytearray(state.st_size), file)  # torch requires a writable buffer


def read_into(data: bytearray, file: IO[bytes]) -> bytearray:
    """Fill a buffer from an unbuffered file and return it, truncated at the end of the file."""
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
    value_range: ValueRange | None,
) -> Tensor:
    try:
        return resize(decode(data, size, channels, value_range, name), size).contiguous()
    except Exception as error:  # decoders raise all kinds of errors for broken files
        raise UnreadableImageError.of(name, _reason(error) if data else "it is empty") from error


def _reason(error: Exception) -> str:
    unknown = type(error).__name__ == "UnidentifiedImageError"
    return "it is not an image" if unknown else (str(error).splitlines() or [type(error).__name__])[0]


def fit(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Crop the largest centered part with the aspect ratio of `size`, and resize it with antialiasing.

    Args:
        image: (C, H, W) uint8.
        size: Height and width in pixels; `None` keeps the image unchanged.

    Example:
        >>> import torch
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
