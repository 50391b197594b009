"""Sizes of image files, read from their headers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_cv.image_formats import is_on_its_side, open_image, upright_size
from lit_cv.printable import printable

__all__ = ["FileSize", "SizesOf", "file_size", "file_sizes", "is_turned"]

FileSize = tuple[int, int] | str
SizesOf = Callable[[Path, Sequence[str]], Sequence[FileSize]]


def file_size(path: Path) -> FileSize:
    """Return height and width of an image after EXIF rotation, or a string that says why it cannot be read."""
    from PIL import UnidentifiedImageError

    try:
        with open_image(path) as image:
            return upright_size(image)
    except FileNotFoundError:
        return "there is no such file"
    except UnidentifiedImageError:
        return "the file is not an image"
    except Exception as error:  # decoders raise all kinds of errors for broken files
        return f"the image cannot be read: {printable((str(error).splitlines() or [type(error).__name__])[0], False)}"


def file_sizes(folder: Path, names: Sequence[str]) -> list[FileSize]:
    """Return the sizes of images in a folder."""
    return [file_size(folder / name) for name in names]


def is_turned(path: Path) -> bool:
    """Return whether EXIF rotates a readable image by a quarter turn."""
    with open_image(path) as image:
        return is_on_its_side(image)
