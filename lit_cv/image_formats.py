"""The image formats that are decoded, whatever a file is named. Pure Python, with PIL on first use."""

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
"""PIL's names of the formats, HEIF as pillow-heif adds it. Of those left out some start other programs: EPS runs
Ghostscript."""

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .tga .heic .heif"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Ends of the names of image files, in lower case."""

_MOST_BYTES = 1 << 31
_ORIENTATION = 0x0112  # EXIF's number for how the camera was held
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands that its header names
_WIDTH, _HEIGHT = 256, 257  # TIFF's numbers


def open_image(source: str | Path | IO[bytes]) -> "Image":
    """Open an image by PIL, which reads its header alone, in one of `FORMATS`.

    Raises:
        OSError: If a path leads to no plain file, or to one that is too large for an image, or if it is a HEIC file and
            pillow-heif is not installed.
        PIL.UnidentifiedImageError: If it is of another format.
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
    """Have pillow-heif add its format to PIL; return whether it is installed, and not a file beside the data."""
    spec = find_spec("pillow_heif")
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        return False
    if Path(spec.origin).resolve().parents[1] == Path.cwd():
        return False
    import_module("pillow_heif").register_heif_opener()
    return True


def raw_mode(image: "Image") -> str:
    """Return how the pixels of an image that is not decoded yet are stored, in PIL's words; empty if it is not said."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str((arguments or ("",))[0] if isinstance(arguments, tuple) else arguments)


def loses_bits(image: "Image") -> bool:
    """Return whether an image that is not decoded yet has 16 bits a color, of which PIL reads the upper 8."""
    return ";16" in raw_mode(image) and not image.mode.startswith(("I", "F"))


def orientation(image: "Image") -> int:
    """Return how an image that was opened, and not decoded, is to be turned: EXIF's 1 (as it is) to 8.

    EXIF counts, and where it has no such entry XMP. What is broken says nothing, nor does what a PNG holds behind its
    pixels. PIL turns a TIFF as it decodes it.
    """
    return 1 if image.format == "TIFF" else _noted_orientation(image)


def upright_size(image: "Image") -> tuple[int, int]:
    """Return height and width of an image that was opened, as it is to be looked at."""
    width, height = image.size
    if image.format == "TIFF":  # some releases of PIL turn its size already
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[_WIDTH], tags[_HEIGHT]
    return (width, height) if is_on_its_side(image) else (height, width)


def is_on_its_side(image: "Image") -> bool:
    """Return whether the rows of an image that was opened are stored as columns."""
    return _noted_orientation(image) >= 5


def _noted_orientation(image: "Image") -> int:
    # a PNG without the entry would be decoded to look behind its pixels
    if image.format != "TIFF" and "exif" not in image.info and ("xmp" not in image.info or image.format == "PNG"):
        return 1
    try:
        noted = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # PIL raises all kinds of errors for broken entries
        return 1
    return noted if noted in range(1, 9) else 1


def image_file_problem(found: os.stat_result) -> str:
    """Return why a file is not read as an image, an empty text if it is: a pipe or a device would be waited for."""
    if stat.S_ISDIR(found.st_mode):
        return "it is a folder"
    if not stat.S_ISREG(found.st_mode):
        return "it is a pipe, a device or a socket, not a file"
    return f"it has {found.st_size:,} bytes, more than {_MOST_BYTES:,}" if found.st_size > _MOST_BYTES else ""
