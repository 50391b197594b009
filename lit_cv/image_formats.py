"""The image formats that are decoded, whatever a file is named. Pure Python, with PIL on first use."""

import os
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "IMAGE_SUFFIXES", "open_image", "why_no_image_file"]

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
"""PIL's names of the formats. Of those left out some start other programs: EPS runs Ghostscript."""

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .tga"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Ends of the names of image files, in lower case."""

_MOST_BYTES = 1 << 31


def open_image(source: str | Path | IO[bytes]) -> "Image":
    """Open an image by PIL, which reads its header alone, in one of `FORMATS`.

    Raises:
        OSError: If a path leads to no plain file, or to one that is too large for an image.
        PIL.UnidentifiedImageError: If it is of another format.
        PIL.Image.DecompressionBombError: If its header declares more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    if isinstance(source, str | Path) and (reason := why_no_image_file(os.stat(source))):
        raise OSError(reason)
    Image.init()
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])


def why_no_image_file(found: os.stat_result) -> str:
    """Return why a file is not read as an image, an empty text if it is: a pipe or a device would be waited for."""
    if stat.S_ISDIR(found.st_mode):
        return "it is a folder"
    if not stat.S_ISREG(found.st_mode):
        return "it is a pipe, a device or a socket, not a file"
    return f"it has {found.st_size:,} bytes, more than {_MOST_BYTES:,}" if found.st_size > _MOST_BYTES else ""
