"""Lenient parsing of COCO values: numbers as text, lists as text, points in pairs."""

import json
import math
from typing import Any

__all__ = ["box_of", "crowd_of", "id_of", "name_of", "outline_of"]

_CROWD = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True, "": False, None: False}
_ORDER = "[left, top, width, height]"


def id_of(value: Any) -> int | str | None:
    """Return an id as an integer if possible (also from text), otherwise as text; `None` if it is invalid.

    Example:
        >>> id_of("0012"), id_of(12.0), id_of("a7"), id_of(True)
        (12, 12, 'a7', None)
    """
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else text or None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def name_of(value: Any) -> str | None:
    """Return a category name as text, also from a number; `None` if it is invalid or empty."""
    return str(value) if isinstance(value, str | int | float) and str(value).strip() else None


def crowd_of(value: Any) -> bool:
    """Return whether an object is a crowd.

    Raises:
        ValueError: If the value is neither 0 nor 1.
    """
    key = value.strip().lower() if isinstance(value, str) else value
    if isinstance(key, list | dict) or key not in _CROWD:
        raise ValueError(f"its iscrowd {_shown(value)} is neither 0 nor 1")
    return _CROWD[key]


def outline_of(value: Any) -> list[list[float]] | dict[str, Any] | None:
    """Return polygons or a run-length encoding, or `None` if the value is empty.

    Both may be bbox as text; a single polygon need not be in a list, and its points may be pairs.

    Raises:
        ValueError: If the value is anything else.

    Example:
        >>> outline_of("[[1, 2, 3, 4, 5, 6]]"), outline_of([[1, 2], [3, 4], [5, 6]])
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    """
    outline = _from_text(value)
    if outline is None or (isinstance(outline, list | dict) and not outline):
        return None
    if isinstance(outline, dict):
        if not {"size", "counts"} <= outline.keys():
            raise ValueError("its segmentation has no size and counts")
        return outline
    if not isinstance(outline, list):
        raise ValueError(f"its segmentation {_shown(value)} is neither polygons nor a run-length encoding")
    if all(_is_number(entry) for entry in outline) or all(_is_point(entry) for entry in outline):
        outline = [outline]
    try:
        polygons = [[float(number) for entry in polygon for number in _numbers(entry)] for polygon in outline]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"its segmentation {_shown(value)} is not a list of polygons: {error}") from None
    if not all(isinstance(polygon, list) for polygon in outline):
        raise ValueError(f"its segmentation {_shown(value)} is not a list of polygons")
    return [polygon for polygon in polygons if polygon] or None


def _numbers(entry: Any) -> list[Any]:
    return entry if isinstance(entry, list) else [entry]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def box_of(value: Any) -> tuple[float, float, float, float]:
    """Convert a COCO bbox to left, top, right and bottom.

    Raises:
        ValueError: If it is invalid; the message says why.
    """
    bbox = _from_text(value)
    if not isinstance(bbox, list) or len(bbox) != 4:
        numbers = f" has {len(bbox)} numbers" if isinstance(bbox, list) else f" {_shown(bbox)} is not a list"
        raise ValueError(f"its bbox{numbers}: four are needed, {_ORDER}")
    try:
        left, top, width, height = map(float, bbox)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its bbox {_shown(bbox)} must contain four numbers, {_ORDER}") from None
    if width < 0 or height < 0:
        what = "width" if width < 0 else "height"
        raise ValueError(f"its bbox {_shown(bbox)} has a negative {what}: the order is {_ORDER}")
    return left, top, left + width, top + height


def _from_text(value: Any) -> Any:
    """Parse a list or dict given as text; return any other value unchanged, and blank text as `None`."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return None if isinstance(value, str) and not value.strip() else value


def _shown(value: Any) -> str:
    return str(value)[:60]
