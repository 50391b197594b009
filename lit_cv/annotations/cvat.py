"""CVAT: an XML file ("CVAT for images") with the shapes of many images. Read-only."""

import logging
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign
from lit_cv.annotations.checks import unknown_category
from lit_cv.annotations.image_folder import as_on_disk, locate_images, report_left_out
from lit_cv.annotations.layout import SPLITS, split_in
from lit_cv.annotations.reading import class_name
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.rle import decode_rle, outline_box
from lit_cv.annotations.shapes import NO_AREA, ellipse, pasted_mask, rotated_box
from lit_cv.annotations.split_folders import split_folders
from lit_cv.annotations.walk import files_below, subfolder
from lit_cv.annotations.xml_files import is_cvat, parse_xml

__all__ = ["read_cvat"]

log = logging.getLogger("lit_cv")

_XML = (".xml",)
_MAX_BYTES = 1 << 29  # of the XML file of a task
_SHAPES = ("box", "polygon", "ellipse", "mask")
_NO_AREA = ("polyline", "points", "cuboid", "skeleton")


class _Entry(NamedTuple):
    """An image of a file: its split, its XML element, and the number of shapes before it in the file."""

    file: Path
    split: str
    subset: str
    node: ET.Element
    before: int


def read_cvat(root: Path, problems: Problems, folders: Mapping[str, Path] | None = None) -> dict[str, AnnotationSet]:
    """Read CVAT's `annotations.xml`, in the folder or in a folder for each split; images may name their `subset`.

    Polygons, ellipses and rotated boxes become outlines and masks become run-length encodings; other boxes have no
    outline. Lines, points, cuboids and skeletons are problems; image-level tags are counted and skipped. The classes
    are the files' `labels` in their order, or the sorted classes of the training images.

    Args:
        root: The folder.
        problems: Collects the entries that are skipped.
        folders: Image folder of each split; `None` searches for them.

    Returns:
        A set for each of `train`, `val` and `test` found; one named `all` if there are no splits.

    Raises:
        FileNotFoundError: If there is no such file, or none of the first images exists.
        AnnotationError: If a file contains video tracks.
    """
    entries: list[_Entry] = []
    labels: dict[str, None] = {}
    for file in _files(root):
        tree = parse_xml(file, problems, _MAX_BYTES)
        if tree is None:
            continue
        if tree.find("track") is not None:
            raise AnnotationError(f"{file} contains video tracks: export it as 'CVAT for images 1.1'.")
        labels.update(
            dict.fromkeys(name for node in tree.iterfind("meta//label/name") if (name := class_name(_text(node))))
        )
        before = 0
        for node in tree.iterfind("image"):
            subset = node.get("subset", "").strip()
            entries.append(_Entry(file, _split_of(root, file, subset), subset, node, before))
            before += len(node)
    if not entries and len(problems):
        return {"all": AnnotationSet(root, [], [])}
    if not entries:
        raise FileNotFoundError(f"{root.absolute()} contains no CVAT XML files with images.")
    training = [entry for entry in entries if entry.split == "train"]
    training_classes = {
        class_name(shape.get("label", ""))
        for entry in training or entries
        for shape in entry.node
        if shape.tag in _SHAPES
    }
    categories = list(labels) or sorted(training_classes - {""})
    sets: dict[str, AnnotationSet] = {}
    for split in (*SPLITS, "all") if training else ("all",):
        part = [entry for entry in entries if entry.split == split or not training]
        if part and (split != "all" or not training):
            images = [_image(entry, categories, problems) for entry in part]
            chosen = (folders or {}).get(split)
            folder, images = (chosen, as_on_disk(chosen, images)) if chosen else _located(root, part, images)
            sets[split] = AnnotationSet(folder, categories, images, entry="shape")
    _report(entries, bool(training))
    report_left_out(sets.values())
    return sets


def _files(root: Path) -> list[Path]:
    folders = [root, *(folder for folder in [subfolder(root, "annotations")] if folder)]
    folders += split_folders(root).values()
    return [path for folder in folders for path in files_below(folder, _XML, deep=False) if is_cvat(path)]


def _text(node: ET.Element) -> str:
    return (node.text or "").strip()


def _split_of(root: Path, file: Path, subset: str) -> str:
    folder_split = split_in(file.parent.name) if file.parent != root else None
    return split_in(subset) or split_in(file.stem) or folder_split or "all"


def _located(root: Path, part: Sequence[_Entry], images: Sequence[AnnotatedImage]) -> tuple[Path, list[AnnotatedImage]]:
    words = dict.fromkeys([part[0].subset, *SPLITS.get(part[0].split, ())])
    names = [image.name for image in images]
    folder, names = locate_images(root, part[0].file, [word for word in words if word], names)
    return folder, [replace(image, name=name) for image, name in zip(images, names, strict=True)]


def _report(entries: Sequence[_Entry], split: bool) -> None:
    tags = sum(entry.node.find("tag") is not None for entry in entries)
    if tags:
        log.warning("%d images have tags, which are skipped: only boxes and outlines are read.", tags)
    unassigned = sum(entry.split == "all" for entry in entries) if split else 0
    if unassigned:
        log.warning("%d images are skipped: their subset is none of train, val and test.", unassigned)


def _image(entry: _Entry, categories: Sequence[str], problems: Problems) -> AnnotatedImage:
    name, node = entry.node.get("name", "").replace("\\", "/"), entry.node
    sides = [node.get(side, "") for side in ("height", "width")]
    height, width = (int(side) if side.isascii() and side.isdecimal() and len(side) < 9 else 0 for side in sides)
    image = AnnotatedImage(name, height, width, source=entry.file)
    for position, shape in enumerate((shape for shape in node if shape.tag != "tag"), entry.before + 1):
        item = _object(shape, categories, (height, width))
        if isinstance(item, str):
            problems.add(entry.file, f"image {name!r}, shape {position}", item)
        else:
            item.id = position
            image.objects.append(item)
    return image


def _object(shape: ET.Element, categories: Sequence[str], size: tuple[int, int]) -> AnnotatedObject | str:
    name = class_name(shape.get("label", ""))
    if shape.tag in _NO_AREA:
        return f"its shape {shape.tag!r} {NO_AREA}"
    if shape.tag not in _SHAPES:
        return f"its shape {str(shape.tag)[:40]!r} is unknown"
    if name not in categories:
        return unknown_category(name, categories)
    try:
        outline = _outline(shape, size)
        box = outline_box(outline) if outline is not None else _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    except (ValueError, OverflowError) as error:
        text = str(error)
        return text if text.startswith("its ") else f"its {shape.tag} cannot be read: {text}"
    extra = {node.get("name", ""): _text(node) for node in shape.iterfind("attribute") if node.get("name")}
    occluded = {"occluded": shape.get("occluded")} if shape.get("occluded", "0") != "0" else {}
    left, top, right, bottom = box
    attributes = {**occluded, **({"attributes": extra} if extra else {})}
    return AnnotatedObject(categories.index(name), (left, top, right, bottom), outline, attributes=attributes)


def _numbers(shape: ET.Element, *keys: str) -> list[float]:
    if missing := [key for key in keys if shape.get(key) is None]:
        raise ValueError(f"{missing[0]} is missing")
    values = [float(shape.get(key, "")) for key in keys]
    if not all(map(math.isfinite, values)):
        raise ValueError("it has a value that is not finite")
    return values


def _outline(shape: ET.Element, size: tuple[int, int]) -> list[list[float]] | dict[str, object] | None:
    """Return the outline of a shape, or `None` for a box that is not rotated."""
    rotation = _numbers(shape, "rotation")[0] if shape.get("rotation") else 0.0
    if shape.tag == "box":
        left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        return [rotated_box(left, top, right, bottom, rotation)] if rotation else None
    if shape.tag == "ellipse":
        x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
        return [ellipse(x, y, rx, ry, size, rotation)]
    if shape.tag == "polygon":
        pairs = [point.split(",") for point in shape.get("points", "").split(";")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("its points must have the form x,y;x,y;...")
        return [[float(value) for pair in pairs for value in pair]]
    left, top, width, height = (int(value) for value in _numbers(shape, "left", "top", "width", "height"))
    runs = [int(value) for value in shape.get("rle", "").split(",")]
    if not (0 < width <= size[1] and 0 < height <= size[0]) or min(runs) < 0 or sum(runs) != width * height:
        raise ValueError(f"its runs do not fill {width} x {height} pixels of an image of {size[1]} x {size[0]}")
    pixels = decode_rle({"size": [width, height], "counts": runs}).T  # CVAT's runs are in row order
    return pasted_mask(pixels, left, top, size)


def _find(root: Path) -> Sign:
    return Sign.SURE if _files(root) else Sign.NONE


FORMAT = AnnotationFormat(
    "cvat",
    _find,
    lambda source: read_cvat(source.root, source.problems, source.folders),
    order=10,
)
