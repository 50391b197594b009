"""The image formats that are decoded, whatever a file is named. Pure Python, with PIL on first use."""

from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "IMAGE_SUFFIXES", "open_image"]

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
"""PIL's names of the formats. Of those left out some start other programs: EPS runs Ghostscript."""

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .tga"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Ends of the names of image files, in lower case."""


def open_image(source: str | Path | IO[bytes]) -> "Image":
    """Open an image by PIL, which reads its header alone, in one of `FORMATS`.

    Raises:
        PIL.UnidentifiedImageError: If it is of another format.
        PIL.Image.DecompressionBombError: If its header declares more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    Image.init()
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
