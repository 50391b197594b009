"""Reading of untrusted XML. Python's parser loads no external entities and stops on exploding ones."""

import xml.etree.ElementTree as ET
from pathlib import Path

from lit_cv.annotations.reading import read_bytes, read_head
from lit_cv.annotations.records import AnnotationError, Problems

__all__ = ["is_cvat", "parse_xml"]

_MAX_BYTES = 1 << 26  # of the XML file of an image
_HEAD = 4096  # bytes at the start that contain the root element


def is_cvat(path: Path) -> bool:
    """Return whether an XML file is CVAT's: its root is `annotations`, where VOC has an `annotation` per image."""
    try:
        return b"<annotations" in read_head(path, _HEAD)
    except (OSError, AnnotationError):
        return False


def parse_xml(path: Path, problems: Problems, max_bytes: int = _MAX_BYTES) -> ET.Element | None:
    """Return the root element of a file; if it is invalid, add a problem and return `None`.

    Args:
        path: The file.
        problems: Collects files that cannot be parsed.
        max_bytes: Maximum size.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        return ET.fromstring(read_bytes(path, max_bytes))
    except AnnotationError as error:
        problems.add(path, "", str(error).removeprefix(f"{path} "))
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two for unknown encodings
        problems.add(path, "", f"is not valid XML: {error}")
    return None
