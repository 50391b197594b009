"""Helpers for reading annotated images: cached facts about files, and label tables."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from datamodules.annotated_dataset import AnnotatedDataset, Size
from datamodules.decoding import ValueRange
from datamodules.images import UnreadableImageError
from datamodules.inspection import inspected, unreadable_files
from lit_cv.annotations import (
    AnnotatedImage,
    AnnotationError,
    AnnotationSet,
    FileSize,
    MaskFact,
    file_size,
    inspect_mask,
)
from lit_cv.annotations.reading import class_name, name_choices, read_rows
from lit_cv.errors import argument, setting
from lit_cv.printable import printable
from lit_cv.spreadsheet import unescape_formula

__all__ = [
    "cached_mask_facts",
    "cached_sizes",
    "has_masks",
    "read_image_labels",
    "unannotated_images",
    "without_small_boxes",
]

log = logging.getLogger("lit_cv")


def cached_sizes(folder: Path, names: Sequence[str]) -> list[FileSize]:
    """Return the sizes of image files, cached beside them."""
    sizes = inspected(
        folder,
        names,
        "sizes",
        lambda name: file_size(folder / name),
        "Reading image sizes",
        lambda size: (
            isinstance(size, str) or (_are_integers(size, 2) and min(size) >= 1 and size[0] * size[1] < 1 << 31)
        ),
    )
    return [size if isinstance(size, str) else (size[0], size[1]) for size in sizes]


def cached_mask_facts(root: Path, paths: Sequence[Path]) -> list[MaskFact]:
    """Return the results of `inspect_mask` for mask files, cached beside them."""
    names = [os.path.relpath(path, root) for path in paths]
    if not names:
        return []
    return inspected(
        root,
        names,
        "masks",
        lambda name: inspect_mask(root / name),
        "Reading masks",
        lambda facts: isinstance(facts, str) or (_are_integers(facts) and len(facts) % 3 == 2 and len(facts) > 2),
    )


def _are_integers(values: object, count: int | None = None) -> bool:
    return isinstance(values, list) and [type(value) for value in values] == [int] * (count or len(values))


def unannotated_images(
    folder: Path,
    names: Sequence[str],
    box_classes: Sequence[str],
    canvas: Size | None,
    channels: Literal[1, 3],
    value_range: ValueRange | None,
    skip: bool,
) -> AnnotatedDataset:
    """Return images without annotations, fitted into one size like annotated ones.

    Args:
        folder: Image folder.
        names: Paths relative to the folder.
        box_classes: Names of the classes to detect.
        canvas: Height and width of a batch's images; `None` keeps their sizes.
        channels: 3 for color, 1 for gray.
        value_range: See `read_image`.
        skip: Whether to skip unreadable images with a warning.

    Raises:
        UnreadableImageError: If an image cannot be read and `skip` is false.
    """
    broken = unreadable_files(folder, names, value_range) if skip else {}
    images = []
    for name, size in zip(names, cached_sizes(folder, names), strict=True):
        if not isinstance(size, str) and name not in broken:
            images.append(AnnotatedImage(name, *size))
            continue
        shown, reason = printable(str(folder / name), lines=False), size if isinstance(size, str) else broken[name]
        if not skip:
            raise UnreadableImageError(f"{shown}: {reason} ({setting('on_error', 'skip')} skips such files)")
        log.warning("%s is skipped: %s", shown, reason)
    unannotated = AnnotationSet(folder, list(box_classes), images)
    return AnnotatedDataset(unannotated, canvas, channels, boxes=False, value_range=value_range)


def has_masks(part: AnnotationSet) -> bool:
    """Return whether there are masks, or outlines to draw them from."""
    return any(image.mask or any(item.segmentation for item in image.objects) for image in part.images)


def without_small_boxes(part: AnnotationSet, side: float) -> AnnotationSet:
    """Return the set without boxes with a side shorter than `side` pixels."""

    def filtered(image: AnnotatedImage) -> AnnotatedImage:
        objects = [o for o in image.objects if min(o.box[2] - o.box[0], o.box[3] - o.box[1]) >= side]
        return replace(image, objects=objects)

    return replace(part, images=[filtered(image) for image in part.images]) if side > 0 else part


def read_image_labels(path: Path, images: set[str], strict: bool) -> tuple[list[str], dict[str, int]]:
    """Read image-level classes from a table.

    Args:
        path: The table: CSV with the columns `path` and `label`.
        images: Names of the annotated images.
        strict: Whether rows of other images are an error.

    Returns:
        Sorted class names, and the class of each labeled image.

    Raises:
        FileNotFoundError: If there is no table.
        ValueError: If it lacks a column.
        AnnotationError: If it names other images and `strict` is set.
    """
    if not path.is_file():
        raise FileNotFoundError(f"table {path.absolute()} not found: set {argument('labels')}.")
    rows = read_rows(path, files=("path",))
    if not rows or not {"path", "label"} <= rows[0].keys():
        raise ValueError(f"{path} must have the columns path and label ({argument('labels')}).")
    for row in rows:
        row["path"] = next((name for name in name_choices(row["path"]) if name in images), row["path"])
        row["label"] = class_name(unescape_formula(row["label"]))
    unknown = [row["path"] for row in rows if row["path"] not in images]
    if unknown and strict:
        raise AnnotationError(
            f"{path} has labels of {len(unknown)} images without annotations, starting with {unknown[0]!r}."
        )
    label_of = {row["path"]: row["label"] for row in rows if row["label"] and row["path"] in images}
    names = sorted(set(label_of.values()))
    return names, {image: names.index(name) for image, name in label_of.items()}
