"""Conversion from one annotation format to another."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lit_cv.annotations.annotation_format import split_folder
from lit_cv.annotations.atomic_folder import atomic_folder, remove_stale_folders
from lit_cv.annotations.classes import find_class_table, read_class_table, read_folders, write_class_table
from lit_cv.annotations.formats import annotation_formats, find_format, read_annotations, writers
from lit_cv.annotations.layout import is_text, leads_out, paths_by_split
from lit_cv.annotations.reading import is_file, open_plain
from lit_cv.annotations.records import AnnotationSet, Problems
from lit_cv.atomic_files import atomic_write
from lit_cv.errors import argument, setting
from lit_cv.printable import printable

__all__ = ["convert", "place_images"]

log = logging.getLogger("lit_cv")

_CLASSES = ("csv", "folders")  # formats of image-level classes

Placing = Literal["copy", "link", "none"]
if TYPE_CHECKING:
    Target = str
    Read = str
else:  # the command line lists the available formats
    Target = Literal[(*writers(), *_CLASSES)]
    Read = Literal[("auto", *annotation_formats(), *_CLASSES)] | str


def convert(
    root: str,
    out: str,
    to: Target,
    source: Read = "auto",
    images: str | dict[str, str] | None = None,
    annotations: str | dict[str, str] | None = None,
    place: Placing = "copy",
    on_error: Literal["raise", "skip"] = "raise",
) -> dict[str, AnnotationSet]:
    """Read and check a folder of annotated images, and write it to a new folder in another format.

    The new folder appears only when it is complete: an interrupted conversion or a full disk leaves nothing.

    Args:
        root: The folder to read: in a layout of `AnnotatedImagesDataModule`, or for image-level classes in that of
            `ImageFolderDataModule` or with a table `images.csv`.
        out: The folder to write, which must be empty or missing.
        to: Format to write: COCO JSON, Pascal VOC XML, YOLO text files, or class masks as PNG files; for image-level
            classes a table (`csv`) or one folder per class (`folders`).
        source: Format to read; `auto` detects it. `file.NAME` is a custom `AnnotationFormat`.
        images: Image folder, or a folder for each of `train`, `val` and `test`, relative to `root` or to the working
            directory; `None` searches. Not for `yolo` and image-level classes.
        annotations: COCO file, or a file for each split, relative to the same folders.
        place: Whether images are copied, hard-linked (if the file system can) or not placed in `out` at all.
        on_error: How to treat invalid entries: `raise` stops and lists them, `skip` leaves them out and counts them.

    Returns:
        The sets that were written.

    Raises:
        FileNotFoundError: If there are no annotations, or the folder `images` does not exist.
        AnnotationError: If entries are invalid and `on_error` is `raise`.
        OSError: If `out` cannot be written.
        ValueError: If `out` is not empty, the format cannot store the annotations, two images would share a file, or
            `source` does not allow `images`.
    """
    target = Path(out).expanduser().absolute()
    _check_empty(target)
    problems = Problems()
    sets = _read(Path(root).expanduser(), source, images, annotations, problems)
    if on_error == "raise":
        problems.stop(f" ({setting('on_error', 'skip')} skips them)")
    elif len(problems):
        log.warning("%d invalid entries are skipped:\n%s", len(problems), problems)
    _check_fits(sets, to)
    _check_names(sets, to)
    places = _places(sets, to)
    with atomic_folder(target, {new.parts[0] for new in places}) as draft:
        written = (
            [] if to == "folders" else write_class_table(sets, draft) if to == "csv" else writers()[to](sets, draft)
        )
        method: Placing = "copy" if to == "folders" and place == "none" else place
        place_images({draft / new: old for new, old in places.items()}, method)
    count = sum(len(part.images) for part in sets.values())
    objects = sum(len(image.objects) for part in sets.values() for image in part.images)
    content = "their classes" if to in _CLASSES else f"{objects} objects"
    log.info("%d images with %s: wrote %d annotation files to %s", count, content, len(written), _shown(target))
    return sets


def _check_empty(target: Path) -> None:
    if target.is_symlink():
        raise ValueError(f"{_shown(target)} is a link: use the folder that it points to ({argument('out')}).")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{_shown(target)} is not a folder: choose another name ({argument('out')}).")
    remove_stale_folders(target)
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{_shown(target)} is not empty: choose another folder ({argument('out')}).")


def _shown(name: object) -> str:
    return printable(str(name), lines=False)


def _read(
    root: Path,
    source: str,
    images: str | dict[str, str] | None,
    annotations: str | dict[str, str] | None,
    problems: Problems,
) -> dict[str, AnnotationSet]:
    folders, files = paths_by_split(root, images), paths_by_split(root, annotations)
    if missing := [folder for folder in (folders or {}).values() if not folder.is_dir()]:
        hint = (
            f" (to copy or link images, use {setting('place', images)})" if images in ("copy", "link", "none") else ""
        )
        raise FileNotFoundError(f"folder {missing[0]} not found: set {argument('images')}{hint}.")
    if source == "auto":
        try:
            source = "coco" if files else find_format(root, "source")
        except FileNotFoundError:
            if not root.is_dir():
                raise
            source = "csv" if find_class_table(root) else "folders"
    if source in _CLASSES and (folders or files):
        raise ValueError(
            f"{argument('images')} and {argument('annotations')} are for objects and masks, not for image-level "
            f"classes ({source})."
        )
    if source == "folders":
        return read_folders(root, problems)
    if source == "csv":
        table = find_class_table(root)
        if table is None:
            raise FileNotFoundError(f"{root.absolute()} contains no table images.csv.")
        return read_class_table(table, problems)
    if files and isinstance(annotations, str):
        files = {"all": files["all"]}
    return read_annotations(root, problems, source, files, folders)


def place_images(places: Mapping[Path, Path], method: Placing) -> None:
    """Copy or link image files.

    Args:
        places: Old path of each image by its new path.
        method: `copy`, `link` or `none`.
    """
    for new, old in places.items() if method != "none" else ():
        new.parent.mkdir(parents=True, exist_ok=True)
        if not (method == "link" and _hard_linked(old, new)):
            open_plain(old).close()  # a link may point to a device without an end
            with atomic_write(new, "the image", sync=False) as part:
                shutil.copyfile(old, part)


def _hard_linked(old: Path, new: Path) -> bool:
    """Create a hard link to a file (resolving symbolic links), and return whether that succeeded."""
    source = Path(os.path.realpath(old))  # a hard link to a relative symbolic link would point elsewhere
    try:
        if is_file(source):
            os.link(source, new)
            return True
    except OSError:
        pass
    return False


def _places(sets: Mapping[str, AnnotationSet], to: str) -> dict[Path, Path]:
    """Map the new path of each image in a format's layout, relative to the output folder, to its old path."""
    places: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for split, part in sets.items():
        folder_of = annotation_formats()[to].place if to not in _CLASSES else split_folder
        folder = folder_of(split) if to != "folders" else Path() if split == "all" else Path(split)
        for image in part.images:
            if to == "folders" and image.label is None:
                continue
            name = Path(image.label or "") / Path(image.name).name if to == "folders" else Path(image.name)
            new, old = folder / name, part.folder / image.name
            if leads_out(name.as_posix()):
                raise ValueError(f"the name {name.as_posix()!r} points outside the output folder.")
            key = new if to in _CLASSES or not annotation_formats()[to].per_image else new.with_suffix("")
            if key in taken:
                raise ValueError(
                    f"{_shown(taken[key])} and {_shown(old)} would share a file: {to} names files by image. Rename one."
                )
            taken[key] = old
            places[new] = old
    return places


def _check_names(sets: Mapping[str, AnnotationSet], to: str) -> None:
    """Raise if the format cannot store some names, before anything is written."""
    classes = {name for part in sets.values() for name in (*part.categories, *part.mask_classes)}
    classes |= {image.label for part in sets.values() for image in part.images if image.label}
    if to in _CLASSES:
        unstorable = [name for name in classes if to == "csv" and not is_text(name)]
    else:
        files = {image.name for part in sets.values() for image in part.images}
        unstorable = annotation_formats()[to].refused(classes, files)
    if unstorable:
        raise ValueError(
            f"{to} cannot store the name '{_shown(min(unstorable))}' ({len(unstorable)} in total): not UTF-8, or "
            f"with control characters. Rename it or choose another format ({argument('to')})."
        )


def _check_fits(sets: Mapping[str, AnnotationSet], to: str) -> None:
    """Raise if a format cannot store the annotations at all; warn about what is lost."""
    labels = [image.label for part in sets.values() for image in part.images]
    if (to in _CLASSES) != any(labels):
        content = "image-level classes" if any(labels) else "objects or masks"
        raise ValueError(f"{to} cannot store {content}: choose another format ({argument('to')}).")
    if to in _CLASSES:
        nested = sorted({label for label in labels if label and "/" in label})
        if to == "folders" and nested:
            raise ValueError(f"class {nested[0]!r} contains a slash: folders cannot have that name.")
        if to == "folders" and None in labels:
            log.warning("%d images without a class are skipped.", labels.count(None))
        return
    objects = [item for part in sets.values() for image in part.images for item in image.objects]
    masks = any(image.mask for part in sets.values() for image in part.images)
    outlines = [item for item in objects if item.segmentation]
    if to == "masks" and not masks and not outlines:
        raise ValueError(
            f"class masks need outlines or masks, but there are only boxes: choose another format ({argument('to')})."
        )
    if to != "masks" and not any(part.categories for part in sets.values()):
        raise ValueError(
            f"{to} needs single objects, but there are only class masks: choose another format ({argument('to')})."
        )
    lost = [f"{count} {name}" for name, count in annotation_formats()[to].lost(sets).items() if count]
    if lost:
        log.warning("%s cannot store %s.", to, " and ".join(lost))
