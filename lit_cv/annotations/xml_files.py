"""XML as others have written it. Python's parser loads no external entities, and gives up on those that grow."""

import xml.etree.ElementTree as ET
from pathlib import Path

from lit_cv.annotations.reading import head_of, read_bytes
from lit_cv.annotations.records import AnnotationError, Problems

__all__ = ["is_cvat", "parse_xml"]

_MOST = 1 << 26  # bytes of the XML of an image
_HEAD = 4096  # bytes in which a file names its first element


def is_cvat(path: Path) -> bool:
    """Tell whether a file is XML of CVAT: many images in one `annotations`, where VOC has an `annotation` for each."""
    try:
        return b"<annotations" in head_of(path, _HEAD)
    except (OSError, AnnotationError):
        return False


def parse_xml(path: Path, problems: Problems, most: int = _MOST) -> ET.Element | None:
    """Return the root element of a file, or `None` and a problem noted.

    Args:
        path: The file.
        problems: Where a file that cannot be parsed is noted.
        most: Bytes that it has at most.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        return ET.fromstring(read_bytes(path, most))
    except AnnotationError as error:
        problems.add(path, "", str(error).removeprefix(f"{path} "))
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two for encodings that there are not
        problems.add(path, "", f"is not valid XML: {error}")
    return None
