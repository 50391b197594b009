"""How large image files are, from their headers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_cv.image_formats import open_image
from lit_cv.printable import printable

__all__ = ["FileSize", "SizesOf", "file_size", "file_sizes"]

FileSize = tuple[int, int] | str
SizesOf = Callable[[Path, Sequence[str]], Sequence[FileSize]]

_ORIENTATION = 0x0112  # EXIF's number for how the camera was held


def file_size(path: Path) -> FileSize:
    """Return height and width of an image as it is to be looked at, or a string that says why it cannot be read."""
    from PIL import UnidentifiedImageError

    try:
        with open_image(path) as image:
            width, height = image.size
            # a PNG without the entry would be decoded to look behind its pixels
            exif = image.getexif() if "exif" in image.info or image.format == "TIFF" else {}
            turned = exif.get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except FileNotFoundError:
        return "there is no such file"
    except UnidentifiedImageError:
        return "the file is no image"
    except Exception as error:  # decoders raise all kinds of errors for broken files
        return f"the image cannot be read: {printable((str(error).splitlines() or [type(error).__name__])[0], False)}"
    return (width, height) if turned else (height, width)


def file_sizes(folder: Path, names: Sequence[str]) -> list[FileSize]:
    """Return the sizes of the images of these names in a folder."""
    return [file_size(folder / name) for name in names]
