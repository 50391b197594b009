"""The image formats that are decoded, recognized by content, not by name. Pure Python, with PIL on first use."""

import os
import stat
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "image_file_problem",
    "is_on_its_side",
    "loses_bits",
    "open_image",
    "orientation",
    "raw_mode",
    "upright_size",
]

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "HEIF")
"""PIL's names of the formats, and HEIF, which pillow-heif adds. Some of PIL's other formats start external programs:
EPS runs Ghostscript."""

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .tga .heic .heif"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Lower-case suffixes of image files."""

_MAX_BYTES = 1 << 31
_ORIENTATION = 0x0112  # EXIF tag
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands in the header of HEIC files
_WIDTH, _HEIGHT = 256, 257  # TIFF tags


def open_image(source: str | Path | IO[bytes]) -> "Image":
    """Open an image in one of `FORMATS` with PIL, which reads only the header.

    Raises:
        OSError: If a path is not a regular file or is too large for an image, or if it is a HEIC file and pillow-heif
            is not installed.
        PIL.UnidentifiedImageError: If it has another format.
        PIL.Image.DecompressionBombError: If its header declares more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, str | Path) and (reason := image_file_problem(os.stat(source))):
        raise OSError(reason)
    Image.init()
    try:
        return Image.open(source, formats=_formats())
    except UnidentifiedImageError as error:
        if "HEIF" in Image.OPEN or not _is_heic(source):
            raise
        if not _adds_heic():
            raise OSError("it is a HEIC file: install pillow-heif, or convert it to JPEG or PNG.") from error
    return Image.open(source, formats=_formats())


def _formats() -> list[str]:
    from PIL import Image

    return [name for name in FORMATS if name in Image.OPEN]


def _is_heic(source: str | Path | IO[bytes]) -> bool:
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            start = file.read(12)
    else:
        source.seek(0)
        start = source.read(12)
        source.seek(0)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC


def _adds_heic() -> bool:
    """Register pillow-heif's format with PIL; return whether it is installed, and not a file beside the data."""
    spec = find_spec("pillow_heif")
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        return False
    if Path(spec.origin).resolve().parents[1] == Path.cwd():
        return False
    import_module("pillow_heif").register_heif_opener()
    return True


def raw_mode(image: "Image") -> str:
    """Return PIL's raw mode of an opened, not yet decoded image, which says how pixels are stored; empty if unknown."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str((arguments or ("",))[0] if isinstance(arguments, tuple) else arguments)


def loses_bits(image: "Image") -> bool:
    """Return whether a not yet decoded image has 16 bits per color channel, of which PIL keeps only the upper 8."""
    return ";16" in raw_mode(image) and not image.mode.startswith(("I", "F"))


def orientation(image: "Image") -> int:
    """Return the EXIF orientation (1, upright, to 8) that remains to be applied to an opened, not yet decoded image.

    XMP counts if EXIF has no such entry. Broken entries are ignored, and so are those that a PNG holds after its
    pixels. A TIFF always gives 1, since PIL rotates it while decoding.
    """
    return 1 if image.format == "TIFF" else _noted_orientation(image)


def upright_size(image: "Image") -> tuple[int, int]:
    """Return height and width of an opened image after its orientation is applied."""
    width, height = image.size
    if image.format == "TIFF":  # some releases of PIL have already swapped its size
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[_WIDTH], tags[_HEIGHT]
    return (width, height) if is_on_its_side(image) else (height, width)


def is_on_its_side(image: "Image") -> bool:
    """Return whether the rows of an opened image are stored as columns."""
    return _noted_orientation(image) >= 5


def _noted_orientation(image: "Image") -> int:
    # PIL would decode a PNG without the entry to look for it after the pixels
    if image.format != "TIFF" and "exif" not in image.info and ("xmp" not in image.info or image.format == "PNG"):
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # PIL raises all kinds of errors for broken entries
        return 1
    return orientation if orientation in range(1, 9) else 1


def image_file_problem(status: os.stat_result) -> str:
    """Return why a file is not opened as an image, an empty text if it is. Opening a pipe or a device could block."""
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder"
    if not stat.S_ISREG(status.st_mode):
        return "it is a pipe, a device or a socket, not a file"
    return f"it has {status.st_size:,} bytes, over the limit of {_MAX_BYTES:,}" if status.st_size > _MAX_BYTES else ""
