"""Labelme: a JSON file for each image, with the shapes drawn in it. Read alone."""

import base64
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign
from lit_cv.annotations.checks import unknown_category
from lit_cv.annotations.image_folder import report_left_out
from lit_cv.annotations.layout import IMAGE_FOLDERS, SPLITS, leads_out
from lit_cv.annotations.reading import class_name, decoded_text, head_of, is_file, read_bytes, read_names
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.rle import outline_box
from lit_cv.annotations.shapes import NO_AREA, ellipse, pasted_mask
from lit_cv.annotations.split_folders import SPLIT_NAMES, split_folders
from lit_cv.annotations.walk import FolderIndex, files_below
from lit_cv.image_formats import open_image

__all__ = ["read_labelme"]

_JSON = (".json",)
_MOST = 1 << 28  # bytes of a file, which may hold its image
_HEAD = 1 << 20  # bytes in which a file names its shapes, if it does not hold its image before them
_TRIED = 5  # files that are looked into
_POLYGONS = ("polygon", "rotation", "quadrilateral", "oriented_rectangle")
_KEPT = ("group_id", "description", "flags", "difficult", "attributes")
_NO_CLASSES = ("__ignore__", "_background_")  # lines of Labelme's `labels.txt`

Content = Mapping[str, Any]


def read_labelme(root: Path, problems: Problems, folders: Mapping[str, Path] | None = None) -> dict[str, AnnotationSet]:
    """Read a folder of Labelme's JSON files, beside their images or in a folder beside that of the images.

    Polygons become outlines, circles as well; masks become run-length codes; rectangles are boxes without an outline.
    Polygons of one label with the same `group_id` are parts of one object. Lines and points are problems. Folders
    named for splits, in any depth, make the splits. The classes are those of `labels.txt`, one a line, or those of the
    training images, sorted.

    Args:
        root: The folder.
        problems: Where entries that are left out are noted.
        folders: Folder of the images of each split; `None` looks for them.

    Returns:
        A set for each of `train`, `val` and `test` that is there; `all` where there are no splits.

    Raises:
        FileNotFoundError: If there are no such files.
    """
    contents: dict[str, list[tuple[Path, Content]]] = {}
    places = split_folders(root)
    for path in files_below(root, _JSON):
        content = _load(path, problems)
        if content is not None:
            contents.setdefault(_split_of(path, root, places), []).append((path, content))
    if "train" not in contents:
        contents = {"all": [entry for part in contents.values() for entry in part]}
    if not any(contents.values()) and not len(problems):
        raise FileNotFoundError(f"{root.absolute()} holds no JSON files of Labelme.")
    categories = _classes(root / "labels.txt")
    if not categories:
        training = contents.get("train") or contents["all"]
        categories = sorted({name for _, content in training for shape in _shapes(content) if (name := _label(shape))})
    sets = {}
    for split in (*SPLITS, "all"):
        if split in contents:
            index = FolderIndex((folders or {}).get(split, root))
            images = [_image(root, index, path, content, categories, problems) for path, content in contents[split]]
            sets[split] = AnnotationSet(index.root, categories, images, entry="shape")
    report_left_out(sets.values())
    return sets


def _load(path: Path, problems: Problems) -> Content | None:
    """Return what a file holds, `None` if it is of another kind or broken, which is noted."""
    try:
        content = json.loads(decoded_text(read_bytes(path, _MOST)))
    except AnnotationError as error:
        problems.add(path, "", str(error).removeprefix(f"{path} "))
        return None
    except (ValueError, RecursionError) as error:
        problems.add(path, "", f"is not valid JSON: {error}")
        return None
    return content if isinstance(content, dict) and isinstance(content.get("shapes"), list) else None


def _classes(path: Path) -> list[str]:
    names = read_names(path, numbered=False) if is_file(path) else []
    return [name for name in names if name not in _NO_CLASSES]


def _split_of(path: Path, root: Path, places: Mapping[str, Path]) -> str:
    parts = (part.lower() for part in path.relative_to(root).parts[:-1])
    named = next((SPLIT_NAMES[part] for part in parts if part in SPLIT_NAMES), "all")
    return next((split for split, place in places.items() if path.is_relative_to(place)), named)


def _shapes(content: Content) -> list[Mapping[str, Any]]:
    return [shape for shape in content["shapes"] if isinstance(shape, dict)]


def _label(shape: Mapping[str, Any]) -> str:
    label = shape.get("label")
    return class_name(str(label)) if isinstance(label, str | int | float) else ""


def _image(
    root: Path, index: FolderIndex, path: Path, content: Content, categories: Sequence[str], problems: Problems
) -> AnnotatedImage:
    sides = [content.get(key) for key in ("imageHeight", "imageWidth")]
    height, width = (side if type(side) is int and side > 0 else 0 for side in sides)
    image = AnnotatedImage(_image_name(root, index, path, content), height, width, source=path)
    groups: dict[tuple[int, str], AnnotatedObject] = {}
    for position, shape in enumerate(content["shapes"], 1):
        found = _object(shape, categories, (height, width)) if isinstance(shape, dict) else "is no object"
        if isinstance(found, str):
            problems.add(path, f"shape {position}", found)
            continue
        found.id = position
        group = shape.get("group_id")
        if group is not None and isinstance(found.segmentation, list):
            first = groups.setdefault((found.category, str(group)), found)
            if first is not found and isinstance(first.segmentation, list):
                first.segmentation = [*first.segmentation, *found.segmentation]
                first.box = outline_box(first.segmentation)
                continue
        image.objects.append(found)
    return image


def _image_name(root: Path, index: FolderIndex, path: Path, content: Content) -> str:
    """Return the image's path below its folder: that of the JSON file, or what its `imagePath` says."""
    place = path.parent.relative_to(root)
    noted = str(content.get("imagePath") or "").replace("\\", "/").strip()
    # Files that were renamed keep their old `imagePath`: the name of the JSON file goes first where both exist.
    choices = [Path(os.path.normpath(place / noted)), place / Path(noted).name] if noted else []
    parts = place.parts
    swapped = [Path(*parts[:k], name, *parts[k + 1 :]) for k in reversed(range(len(parts))) for name in IMAGE_FOLDERS]
    beside = [place, *(place / name for name in IMAGE_FOLDERS), *swapped, Path()]
    same = [name for folder in dict.fromkeys(beside) for name in index.named(folder / path.stem)]
    choices += [folder / Path(noted).name for folder in beside if noted]
    choices = [choice for choice in choices if choice.name and not leads_out(choice.as_posix())]
    first = [choice for choice in choices if choice in same]
    found = next((name for name in [*first, *same, *choices] if is_file(index.root / name)), None)
    return (found or next(iter(choices), place / f"{path.stem}.jpg")).as_posix()


def _object(shape: Mapping[str, Any], categories: Sequence[str], size: tuple[int, int]) -> AnnotatedObject | str:
    name = _label(shape)
    if name not in categories:
        return unknown_category(name, categories)
    kind, given = shape.get("shape_type") or "polygon", shape.get("points")
    try:
        points = np.array(given, dtype=np.float64).reshape(-1, 2)
        score = None if shape.get("score") is None else float(shape["score"])
        outline = _outline(kind, points, shape.get("mask"), size)
    except (TypeError, ValueError, OverflowError) as error:
        return f"its points are none: {error}" if not isinstance(error, _ShapeError) else str(error)
    left, top, right, bottom = outline_box(outline) if outline else (*points.min(0).tolist(), *points.max(0).tolist())
    extra = {key: shape[key] for key in _KEPT if shape.get(key)}
    return AnnotatedObject(categories.index(name), (left, top, right, bottom), outline, score=score, attributes=extra)


class _ShapeError(ValueError):
    """What is wrong with a shape, in words for a message."""


def _outline(
    kind: str, points: np.ndarray[Any, Any], mask: Any, size: tuple[int, int]
) -> list[list[float]] | dict[str, Any] | None:
    """Return the outline of a shape, `None` for a rectangle."""
    needed = {"rectangle": 2, "circle": 2, "mask": 2}.get(kind, 3)
    if kind not in (*_POLYGONS, "rectangle", "circle", "mask"):
        raise _ShapeError(f"its shape {str(kind)[:40]!r} {NO_AREA}")
    if len(points) < needed or not np.isfinite(points).all():
        raise _ShapeError(f"its {kind} has {len(points)} points: {needed} finite ones at least are needed")
    if kind == "rectangle":
        return None
    if kind == "circle":
        center, edge = points[:2].tolist()
        radius = math.dist(center, edge)
        return [ellipse(center[0], center[1], radius, radius, size)]
    if kind == "mask":
        return _mask(points, mask, size)
    return [points.reshape(-1).tolist()]


def _mask(points: np.ndarray[Any, Any], given: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return the code of a PNG that covers a box of pixels, the last ones included."""
    left, top, right, bottom = (int(value) for value in points[:2].reshape(-1))
    expected = (right - left + 1, bottom - top + 1)
    try:
        with open_image(io.BytesIO(base64.b64decode(given, validate=True))) as image:
            if image.size != expected:
                raise _ShapeError(f"its mask has {image.width} x {image.height} pixels, its points {expected}")
            pixels = np.asarray(image.convert("L")) > 0
    except (TypeError, ValueError, OSError, SyntaxError) as error:
        raise error if isinstance(error, _ShapeError) else _ShapeError(f"its mask cannot be read: {error}") from None
    try:
        return pasted_mask(pixels, left, top, size)
    except ValueError as error:
        raise _ShapeError(str(error)) from None


def _find(root: Path) -> Sign:
    return Sign.SURE if any(map(_looks_like_labelme, islice(files_below(root, _JSON), _TRIED))) else Sign.NONE


def _looks_like_labelme(path: Path) -> bool:
    try:
        head = head_of(path, _HEAD)
    except (OSError, AnnotationError):
        return False
    return b'"shapes"' in head or (b'"imageData"' in head and b'"flags"' in head)


FORMAT = AnnotationFormat(
    "labelme",
    _find,
    lambda source: read_labelme(source.root, source.problems, source.folders),
    order=20,
)
