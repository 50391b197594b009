"""Labelme: a JSON file for each image with the shapes drawn in it. Read-only."""

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
from lit_cv.annotations.reading import class_name, decoded_text, is_file, read_bytes, read_head, read_names
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.rle import outline_box
from lit_cv.annotations.shapes import NO_AREA, ellipse, pasted_mask
from lit_cv.annotations.split_folders import SPLIT_NAMES, split_folders
from lit_cv.annotations.walk import FolderIndex, files_below
from lit_cv.image_formats import open_image

__all__ = ["read_labelme"]

_JSON = (".json",)
_MAX_BYTES = 1 << 28  # of a file, which may contain its image
_HEAD = 1 << 20  # bytes at the start that contain the key "shapes", unless the image precedes it
_TRIED = 5  # files to inspect
_POLYGONS = ("polygon", "rotation", "quadrilateral", "oriented_rectangle")
_ATTRIBUTES = ("group_id", "description", "flags", "difficult", "attributes")
_NO_CLASSES = ("__ignore__", "_background_")  # lines of Labelme's `labels.txt`

Content = Mapping[str, Any]


def read_labelme(root: Path, problems: Problems, folders: Mapping[str, Path] | None = None) -> dict[str, AnnotationSet]:
    """Read a folder of Labelme JSON files, beside their images or in a folder beside the image folder.

    Polygons and circles become outlines, masks become run-length encodings, and rectangles become boxes without an
    outline. Polygons of one label with the same `group_id` are parts of one object. Lines and points are problems.
    Folders named after splits, at any depth, define the splits. The classes are the lines of `labels.txt`, or the
    sorted classes of the training images.

    Args:
        root: The folder.
        problems: Collects the entries that are skipped.
        folders: Image folder of each split; `None` searches for them.

    Returns:
        A set for each of `train`, `val` and `test` found; one named `all` if there are no splits.

    Raises:
        FileNotFoundError: If there are no such files.
    """
    contents: dict[str, list[tuple[Path, Content]]] = {}
    folder_of_split = split_folders(root)
    for path in files_below(root, _JSON):
        content = _load(path, problems)
        if content is not None:
            contents.setdefault(_split_of(path, root, folder_of_split), []).append((path, content))
    if "train" not in contents:
        contents = {"all": [entry for part in contents.values() for entry in part]}
    if not any(contents.values()) and not len(problems):
        raise FileNotFoundError(f"{root.absolute()} contains no Labelme JSON files.")
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
    """Return the content of a file; `None` if it is not Labelme's, or invalid, which is added to `problems`."""
    try:
        content = json.loads(decoded_text(read_bytes(path, _MAX_BYTES)))
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


def _split_of(path: Path, root: Path, folder_of_split: Mapping[str, Path]) -> str:
    parts = (part.lower() for part in path.relative_to(root).parts[:-1])
    by_name = next((SPLIT_NAMES[part] for part in parts if part in SPLIT_NAMES), "all")
    return next((split for split, folder in folder_of_split.items() if path.is_relative_to(folder)), by_name)


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
        item = _object(shape, categories, (height, width)) if isinstance(shape, dict) else "is not an object"
        if isinstance(item, str):
            problems.add(path, f"shape {position}", item)
            continue
        item.id = position
        group = shape.get("group_id")
        if group is not None and isinstance(item.segmentation, list):
            first = groups.setdefault((item.category, str(group)), item)
            if first is not item and isinstance(first.segmentation, list):
                first.segmentation = [*first.segmentation, *item.segmentation]
                first.box = outline_box(first.segmentation)
                continue
        image.objects.append(item)
    return image


def _image_name(root: Path, index: FolderIndex, path: Path, content: Content) -> str:
    """Return the image's path relative to its folder: named like the JSON file, or the file's `imagePath`."""
    folder_path = path.parent.relative_to(root)
    image_path = str(content.get("imagePath") or "").replace("\\", "/").strip()
    # Renamed files keep their old `imagePath`, so the name of the JSON file takes precedence if both exist.
    choices = (
        [Path(os.path.normpath(folder_path / image_path)), folder_path / Path(image_path).name] if image_path else []
    )
    parts = folder_path.parts
    swapped = [Path(*parts[:k], name, *parts[k + 1 :]) for k in reversed(range(len(parts))) for name in IMAGE_FOLDERS]
    folders = [folder_path, *(folder_path / name for name in IMAGE_FOLDERS), *swapped, Path()]
    same_stem = [name for folder in dict.fromkeys(folders) for name in index.named(folder / path.stem)]
    choices += [folder / Path(image_path).name for folder in folders if image_path]
    choices = [choice for choice in choices if choice.name and not leads_out(choice.as_posix())]
    first = [choice for choice in choices if choice in same_stem]
    found = next((name for name in [*first, *same_stem, *choices] if is_file(index.root / name)), None)
    return (found or next(iter(choices), folder_path / f"{path.stem}.jpg")).as_posix()


def _object(shape: Mapping[str, Any], categories: Sequence[str], size: tuple[int, int]) -> AnnotatedObject | str:
    name = _label(shape)
    if name not in categories:
        return unknown_category(name, categories)
    kind, coordinates = shape.get("shape_type") or "polygon", shape.get("points")
    try:
        points = np.array(coordinates, dtype=np.float64).reshape(-1, 2)
        score = None if shape.get("score") is None else float(shape["score"])
        outline = _outline(kind, points, shape.get("mask"), size)
    except (TypeError, ValueError, OverflowError) as error:
        return f"its points are invalid: {error}" if not isinstance(error, _ShapeError) else str(error)
    left, top, right, bottom = outline_box(outline) if outline else (*points.min(0).tolist(), *points.max(0).tolist())
    extra = {key: shape[key] for key in _ATTRIBUTES if shape.get(key)}
    return AnnotatedObject(categories.index(name), (left, top, right, bottom), outline, score=score, attributes=extra)


class _ShapeError(ValueError):
    """An invalid shape; the text is shown as it is."""


def _outline(
    kind: str, points: np.ndarray[Any, Any], mask: Any, size: tuple[int, int]
) -> list[list[float]] | dict[str, Any] | None:
    """Return the outline of a shape, or `None` for a rectangle."""
    needed = {"rectangle": 2, "circle": 2, "mask": 2}.get(kind, 3)
    if kind not in (*_POLYGONS, "rectangle", "circle", "mask"):
        raise _ShapeError(f"its shape {str(kind)[:40]!r} {NO_AREA}")
    if len(points) < needed or not np.isfinite(points).all():
        raise _ShapeError(f"its {kind} has {len(points)} points: at least {needed} finite points are needed")
    if kind == "rectangle":
        return None
    if kind == "circle":
        center, edge = points[:2].tolist()
        radius = math.dist(center, edge)
        return [ellipse(center[0], center[1], radius, radius, size)]
    if kind == "mask":
        return _mask(points, mask, size)
    return [points.reshape(-1).tolist()]


def _mask(points: np.ndarray[Any, Any], encoded: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return the run-length encoding of a base64 PNG that covers a box of pixels, including the last ones."""
    left, top, right, bottom = (int(value) for value in points[:2].reshape(-1))
    expected = (right - left + 1, bottom - top + 1)
    try:
        with open_image(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
            if image.size != expected:
                raise _ShapeError(f"its mask has {image.width} x {image.height} pixels, but its points span {expected}")
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
        head = read_head(path, _HEAD)
    except (OSError, AnnotationError):
        return False
    return b'"shapes"' in head or (b'"imageData"' in head and b'"flags"' in head)


FORMAT = AnnotationFormat(
    "labelme",
    _find,
    lambda source: read_labelme(source.root, source.problems, source.folders),
    order=20,
)
