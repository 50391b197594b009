"""Classes of whole images: a folder for each class, or a table."""

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

__all__ = ["find_table", "read_folders", "read_table", "write_table"]

_TABLE = "images.csv"


def read_folders(root: Path, problems: Problems) -> dict[str, AnnotationSet]:
    """Read folders of images, one for each class, with or without `train`, `val` and `test` above them.

    Args:
        root: The folder.
        problems: Where classes without training images are noted.

    Returns:
        A set for each of `train`, `val` and `test` that is there, `all` where there are none; images have a `label`.

    Raises:
        FileNotFoundError: If there are no folders with images.
    """
    parts = {split: folder for split, folder in split_folders(root).items() if _class_folders(folder)}
    parts = parts if "train" in parts else {"all": root}
    sets = {split: AnnotationSet(folder, [], _images(folder)) for split, folder in parts.items()}
    if not any(part.images for part in sets.values()):
        raise FileNotFoundError(f"{root.absolute()} holds no folders of images.")
    known = {image.label for image in sets.get("train", next(iter(sets.values()))).images}
    for split, part in sets.items():
        for image in part.images:
            if image.label not in known:
                problems.add(part.folder / image.name, "", f"class {image.label!r} of {split} has no training images")
        part.images = [image for image in part.images if image.label in known]
    return sets


def _class_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_clutter(p.name)) if folder.is_dir() else []


def _images(folder: Path) -> list[AnnotatedImage]:
    paths = (path for label in _class_folders(folder) for path in images_below(label))
    names = (path.relative_to(folder) for path in paths)
    return [AnnotatedImage(name.as_posix(), 0, 0, label=composed(name.parts[0])) for name in names]


def find_table(root: Path) -> Path | None:
    """Return the table of a folder: `images.csv`, or the only file of that kind; `None` if there is none."""
    tables = sorted([*root.glob("*.csv"), *root.glob("*.tsv")])
    named = [path for path in tables if path.name == _TABLE]
    return named[0] if named else tables[0] if len(tables) == 1 else None


def read_table(path: Path, problems: Problems, sizes: SizesOf = file_sizes) -> dict[str, AnnotationSet]:
    """Read a table with the columns `path` (below its folder), `label`, and perhaps `split`.

    Args:
        path: The table: commas, or tabs in a file named `.tsv`.
        problems: Where missing and unreadable images, doubles and unknown splits are noted.
        sizes: Returns the sizes of image files.

    Returns:
        A set for each split that it names, `all` where it names none; images have a `label` where it has one.

    Raises:
        ValueError: If a column is missing.
    """
    rows = read_rows(path, files=("path",))
    if not rows or not {"path", "label"} <= rows[0].keys():
        raise ValueError(f"{printable(str(path), lines=False)} needs the columns path and label.")
    sets: dict[str, AnnotationSet] = {}
    seen: set[str] = set()
    others = [name for name in rows[0] if name not in ("path", "label")]
    find_split_column(rows, str(path), SPLIT_COLUMN, others)
    for row in rows:
        row["path"] = file_cell(row["path"], path.parent)
    complete_names(rows, "path", path.parent)
    found = sizes(path.parent, [row["path"] for row in rows])
    for number, (row, size) in enumerate(zip(rows, found, strict=True), 2):
        split = SPLIT_NAMES.get(row["split"].strip().lower()) if "split" in row else "all"
        if leads_out(row["path"]):
            problems.add(path, f"line {number}", f"{row['path']}: {OUTSIDE}")
        elif isinstance(size, str):
            problems.add(path, f"line {number}", f"{row['path']}: {size}")
        elif row["path"] in seen:
            problems.add(path, f"line {number}", f"{row['path']} is listed twice")
        elif split is None:
            problems.add(path, f"line {number}", f"unknown split {row['split']!r}: allowed are train, val and test")
        else:
            part = sets.setdefault(split, AnnotationSet(path.parent, [], []))
            part.images.append(
                AnnotatedImage(row["path"], *size, label=class_name(unescape_formula(row["label"])) or None)
            )
        seen.add(row["path"])
    return sets


def write_table(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write `images.csv` with the columns `path`, `label` and `split`; images belong into `images/SPLIT`.

    Args:
        sets: A set for each split; for the split `all` alone there is no such column and no such folder.
        root: The folder, made if it is missing.

    Returns:
        The file written.
    """
    make_folder(root, root)
    alone = set(sets) == {"all"}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label"] if alone else ["path", "label", "split"])
    for split, part in sets.items():
        for image in part.images:
            path = f"images/{image.name}" if split == "all" else f"images/{split}/{image.name}"
            writer.writerow([path, image.label or "", *([] if alone else [split])])
    write_text(root / _TABLE, text.getvalue(), "the table")
    return [root / _TABLE]
