"""Image-level classes: one folder per class, or a table."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from lit_cv.annotations.checks import OUTSIDE
from lit_cv.annotations.clutter import is_clutter
from lit_cv.annotations.layout import leads_out, make_folder
from lit_cv.annotations.reading import class_name, composed, file_cell, read_rows
from lit_cv.annotations.records import AnnotatedImage, AnnotationSet, Problems
from lit_cv.annotations.sizes import SizesOf, file_sizes
from lit_cv.annotations.split_folders import SPLIT_NAMES, split_folders
from lit_cv.annotations.tables import SPLIT_COLUMN, complete_names, find_split_column
from lit_cv.annotations.walk import images_below
from lit_cv.atomic_files import write_text
from lit_cv.printable import printable
from lit_cv.spreadsheet import unescape_formula

__all__ = ["find_class_table", "read_class_table", "read_folders", "write_class_table"]

_TABLE = "images.csv"


def read_folders(root: Path, problems: Problems) -> dict[str, AnnotationSet]:
    """Read one folder of images per class, optionally inside `train`, `val` and `test` folders.

    Args:
        root: The folder.
        problems: Collects images of classes without training images.

    Returns:
        A set for each of `train`, `val` and `test` found, or one named `all`; images have a `label`.

    Raises:
        FileNotFoundError: If there are no folders with images.
    """
    parts = {split: folder for split, folder in split_folders(root).items() if _class_folders(folder)}
    parts = parts if "train" in parts else {"all": root}
    sets = {split: AnnotationSet(folder, [], _images(folder)) for split, folder in parts.items()}
    if not any(part.images for part in sets.values()):
        raise FileNotFoundError(f"{root.absolute()} contains no folders of images.")
    training_labels = {image.label for image in sets.get("train", next(iter(sets.values()))).images}
    for split, part in sets.items():
        for image in part.images:
            if image.label not in training_labels:
                problems.add(part.folder / image.name, "", f"class {image.label!r} of {split} has no training images")
        part.images = [image for image in part.images if image.label in training_labels]
    return sets


def _class_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_clutter(p.name)) if folder.is_dir() else []


def _images(folder: Path) -> list[AnnotatedImage]:
    paths = (path for label in _class_folders(folder) for path in images_below(label))
    names = (path.relative_to(folder) for path in paths)
    return [AnnotatedImage(name.as_posix(), 0, 0, label=composed(name.parts[0])) for name in names]


def find_class_table(root: Path) -> Path | None:
    """Return the table of a folder: `images.csv`, else the only CSV or TSV file, else `None`."""
    tables = sorted([*root.glob("*.csv"), *root.glob("*.tsv")])
    named = [path for path in tables if path.name == _TABLE]
    return named[0] if named else tables[0] if len(tables) == 1 else None


def read_class_table(path: Path, problems: Problems, sizes: SizesOf = file_sizes) -> dict[str, AnnotationSet]:
    """Read a table with the columns `path` (relative to its folder), `label` and optionally `split`.

    Args:
        path: The table; tab-separated if its suffix is `.tsv`.
        problems: Collects missing, unreadable and duplicate images and unknown splits.
        sizes: Returns the sizes of image files.

    Returns:
        A set for each split of the table, or one named `all`; labeled images have a `label`.

    Raises:
        ValueError: If a column is missing.
    """
    rows = read_rows(path, files=("path",))
    if not rows or not {"path", "label"} <= rows[0].keys():
        raise ValueError(f"{printable(str(path), lines=False)} must have the columns path and label.")
    sets: dict[str, AnnotationSet] = {}
    seen: set[str] = set()
    others = [name for name in rows[0] if name not in ("path", "label")]
    find_split_column(rows, str(path), SPLIT_COLUMN, others)
    for row in rows:
        row["path"] = file_cell(row["path"], path.parent)
    complete_names(rows, "path", path.parent)
    measured = sizes(path.parent, [row["path"] for row in rows])
    for number, (row, size) in enumerate(zip(rows, measured, strict=True), 2):
        split = SPLIT_NAMES.get(row["split"].strip().lower()) if "split" in row else "all"
        if leads_out(row["path"]):
            problems.add(path, f"line {number}", f"{row['path']}: {OUTSIDE}")
        elif isinstance(size, str):
            problems.add(path, f"line {number}", f"{row['path']}: {size}")
        elif row["path"] in seen:
            problems.add(path, f"line {number}", f"{row['path']} is listed twice")
        elif split is None:
            problems.add(path, f"line {number}", f"unknown split {row['split']!r}: use train, val or test")
        else:
            part = sets.setdefault(split, AnnotationSet(path.parent, [], []))
            part.images.append(
                AnnotatedImage(row["path"], *size, label=class_name(unescape_formula(row["label"])) or None)
            )
        seen.add(row["path"])
    return sets


def write_class_table(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write `images.csv` with the columns `path`, `label` and `split`; images belong in `images/SPLIT`.

    Args:
        sets: A set for each split; for a single split `all`, the `split` column and folder are omitted.
        root: The folder, created if missing.

    Returns:
        The written file.
    """
    make_folder(root, root)
    unsplit = set(sets) == {"all"}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label"] if unsplit else ["path", "label", "split"])
    for split, part in sets.items():
        for image in part.images:
            path = f"images/{image.name}" if split == "all" else f"images/{split}/{image.name}"
            writer.writerow([path, image.label or "", *([] if unsplit else [split])])
    write_text(root / _TABLE, text.getvalue(), "the table")
    return [root / _TABLE]
