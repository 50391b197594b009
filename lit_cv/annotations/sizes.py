"""How large image files are, from their headers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cv.image_formats import open_image
from lit_cv.printable import printable

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FileSize", "SizesOf", "file_size", "file_sizes", "is_turned"]

FileSize = tuple[int, int] | str
SizesOf = Callable[[Path, Sequence[str]], Sequence[FileSize]]

_ORIENTATION = 0x0112  # EXIF's number for how the camera was held
_SIDES = (0x0100, 0x0101)  # TIFF's numbers for width and height


def file_size(path: Path) -> FileSize:
    """Return height and width of an image as it is to be looked at, or a string that says why it cannot be read."""
    from PIL import UnidentifiedImageError
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        with open_image(path) as image:
            # of a TIFF, PIL returns the size as stored or as to be looked at, by its version
            width, height = (image.tag_v2[tag] for tag in _SIDES) if isinstance(image, TiffImageFile) else image.size
            turned = _lies_on_its_side(image)
    except FileNotFoundError:
        return "there is no such file"
    except UnidentifiedImageError:
        return "the file is no image"
    except Exception as error:  # decoders raise all kinds of errors for broken files
        return f"the image cannot be read: {printable((str(error).splitlines() or [type(error).__name__])[0], False)}"
    return (width, height) if turned else (height, width)


def is_turned(path: Path) -> bool:
    """Tell whether the file of an image says that it is to be turned by 90 degrees."""
    with open_image(path) as image:
        return _lies_on_its_side(image)


def _lies_on_its_side(image: "Image") -> bool:
    # a PNG without the entry would be decoded to look behind its pixels
    exif = image.getexif() if "exif" in image.info or image.format == "TIFF" else {}
    return exif.get(_ORIENTATION, 1) in (5, 6, 7, 8)


def file_sizes(folder: Path, names: Sequence[str]) -> list[FileSize]:
    """Return the sizes of the images of these names in a folder."""
    return [file_size(folder / name) for name in names]
