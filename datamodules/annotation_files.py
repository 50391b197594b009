"""What an annotated set of images is read with: remembered facts about files, paths of splits, tables of labels."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.inspection import inspected
from lit_cv.annotations import (
    AnnotatedImage,
    AnnotationError,
    AnnotationSet,
    FileSize,
    MaskFact,
    file_size,
    inspect_mask,
)
from lit_cv.annotations.reading import name_choices, read_rows
from lit_cv.spreadsheet import unescape_formula

__all__ = ["has_masks", "known_mask_facts", "known_sizes", "read_image_labels", "without_small"]


def known_sizes(folder: Path, names: Sequence[str]) -> list[FileSize]:
    """Return the sizes of image files, which are remembered."""
    found = inspected(
        folder,
        names,
        "sizes",
        lambda name: file_size(folder / name),
        "Looking at images",
        lambda size: (
            isinstance(size, str) or (_are_integers(size, 2) and min(size) >= 1 and size[0] * size[1] < 1 << 31)
        ),
    )
    return [size if isinstance(size, str) else (size[0], size[1]) for size in found]


def known_mask_facts(root: Path, paths: Sequence[Path]) -> list[MaskFact]:
    """Return what is in mask files, which is remembered."""
    names = [os.path.relpath(path, root) for path in paths]
    if not names:
        return []
    return inspected(
        root,
        names,
        "masks",
        lambda name: inspect_mask(root / name),
        "Looking at masks",
        lambda facts: isinstance(facts, str) or (_are_integers(facts) and len(facts) % 3 == 2 and len(facts) > 2),
    )


def _are_integers(values: object, count: int | None = None) -> bool:
    return isinstance(values, list) and [type(value) for value in values] == [int] * (count or len(values))


def has_masks(part: AnnotationSet) -> bool:
    """Tell whether there are masks, or outlines to draw them from."""
    return any(image.mask or any(item.segmentation for item in image.objects) for image in part.images)


def without_small(part: AnnotationSet, side: float) -> AnnotationSet:
    """Return the set without boxes whose shorter side has fewer pixels."""

    def keep(image: AnnotatedImage) -> AnnotatedImage:
        objects = [o for o in image.objects if min(o.box[2] - o.box[0], o.box[3] - o.box[1]) >= side]
        return replace(image, objects=objects)

    return replace(part, images=[keep(image) for image in part.images]) if side > 0 else part


def read_image_labels(path: Path, images: set[str], strict: bool) -> tuple[list[str], dict[str, int]]:
    """Read the classes of whole images from a table.

    Args:
        path: The table: CSV with the columns `path` and `label`.
        images: Names of the images that there are.
        strict: Whether rows of other images are an error.

    Returns:
        Names of the classes, sorted, and the class of each image that has one.

    Raises:
        FileNotFoundError: If there is no table.
        ValueError: If it lacks a column.
        AnnotationError: If it names other images and `strict` is given.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path.absolute()}: set --data.labels.")
    rows = read_rows(path, files=("path",))
    if not rows or not {"path", "label"} <= rows[0].keys():
        raise ValueError(f"{path} needs the columns path and label (--data.labels).")
    for row in rows:
        row["path"] = next((name for name in name_choices(row["path"]) if name in images), row["path"])
        row["label"] = unescape_formula(row["label"])
    unknown = [row["path"] for row in rows if row["path"] not in images]
    if unknown and strict:
        raise AnnotationError(
            f"{path} has labels of {len(unknown)} images that are not annotated: {unknown[0]!r} first."
        )
    found = {row["path"]: row["label"].strip() for row in rows if row["label"].strip() and row["path"] in images}
    names = sorted(set(found.values()))
    return names, {image: names.index(name) for image, name in found.items()}
