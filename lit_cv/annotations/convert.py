"""From one annotation format to another."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lit_cv.annotations.annotation_format import split_folder
from lit_cv.annotations.aside import remove_dead, written_aside
from lit_cv.annotations.classes import find_table, read_folders, read_table, write_table
from lit_cv.annotations.formats import annotation_formats, find_format, read_annotations, writers
from lit_cv.annotations.layout import is_text, leads_out, paths_by_split
from lit_cv.annotations.reading import is_file, open_plain
from lit_cv.annotations.records import AnnotationSet, Problems
from lit_cv.atomic_files import atomic_write
from lit_cv.errors import argument, setting
from lit_cv.printable import printable

__all__ = ["convert", "place_images"]

log = logging.getLogger("lit_cv")

_CLASSES = ("csv", "folders")  # formats of classes of whole images

Placing = Literal["copy", "link", "none"]
if TYPE_CHECKING:
    Target = str
    Read = str
else:  # the command line reads them from the formats that there are
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
    """Read a folder of annotated images, check it, and write it in another format, in a folder of its own.

    The folder appears when all is in it: a conversion that is stopped, or finds the disk full, leaves nothing.

    Args:
        root: The folder, in a layout of `AnnotatedImagesDataModule`, or for classes of whole images of
            `ImageFolderDataModule`, or with a table `images.csv`.
        out: The folder to write, which must be empty or missing.
        to: Format to write: COCO JSON, Pascal VOC XML, YOLO text files, or class masks as PNG files; for classes of
            whole images a table (`csv`) or a folder for each class (`folders`).
        source: Format to read; `auto` finds out. `file.NAME` is an `AnnotationFormat` of your own.
        images: Folder of the images, or a folder for each of `train`, `val` and `test`, in `root` or as it stands;
            `None` looks. Not for `yolo` and classes of whole images.
        annotations: COCO's file, or a file for each split, likewise.
        place: Whether images are copied, linked (hard links, where the file system has them) or left where they are.
        on_error: What a wrong entry does: `raise` stops and lists all of them, `skip` leaves them out and counts them.

    Returns:
        The sets that were written.

    Raises:
        FileNotFoundError: If there are no annotations, or no folder `images`.
        AnnotationError: If entries are wrong and `on_error` is `raise`.
        OSError: If `out` cannot be written.
        ValueError: If `out` is not empty, the format cannot hold what there is, two images would share a file, or
            `images` do not go with `source`.
    """
    target = Path(out).expanduser().absolute()
    _check_empty(target)
    problems = Problems()
    sets = _read(Path(root).expanduser(), source, images, annotations, problems)
    if on_error == "raise":
        problems.stop(f" ({setting('on_error', 'skip')} leaves them out)")
    elif len(problems):
        log.warning("%d entries are left out:\n%s", len(problems), problems)
    _check_fits(sets, to)
    _check_names(sets, to)
    places = _places(sets, to)
    with written_aside(target, {new.parts[0] for new in places}) as aside:
        written = [] if to == "folders" else write_table(sets, aside) if to == "csv" else writers()[to](sets, aside)
        how: Placing = "copy" if to == "folders" and place == "none" else place
        place_images({aside / new: old for new, old in places.items()}, how)
    count = sum(len(part.images) for part in sets.values())
    objects = sum(len(image.objects) for part in sets.values() for image in part.images)
    what = "their classes" if to in _CLASSES else f"{objects} objects"
    log.info("%d images with %s: %d files of annotations in %s", count, what, len(written), _shown(target))
    return sets


def _check_empty(target: Path) -> None:
    if target.is_symlink():
        raise ValueError(f"{_shown(target)} is a link: give the folder that it leads to ({argument('out')}).")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{_shown(target)} is no folder: give another name ({argument('out')}).")
    remove_dead(target)
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{_shown(target)} is not empty: give another folder ({argument('out')}).")


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
            f" ({setting('place', images)} says what happens to the images)"
            if images in ("copy", "link", "none")
            else ""
        )
        raise FileNotFoundError(f"there is no folder {missing[0]}: set {argument('images')}{hint}.")
    if source == "auto":
        try:
            source = "coco" if files else find_format(root, "source")
        except FileNotFoundError:
            if not root.is_dir():
                raise
            source = "csv" if find_table(root) else "folders"
    if source in _CLASSES and (folders or files):
        raise ValueError(
            f"{argument('images')} and {argument('annotations')} go with objects and masks, not with classes "
            f"({source})."
        )
    if source == "folders":
        return read_folders(root, problems)
    if source == "csv":
        table = find_table(root)
        if table is None:
            raise FileNotFoundError(f"{root.absolute()} holds no table images.csv.")
        return read_table(table, problems)
    if files and isinstance(annotations, str):
        files = {"all": files["all"]}
    return read_annotations(root, problems, source, files, folders)


def place_images(places: Mapping[Path, Path], how: Placing) -> None:
    """Copy or link image files.

    Args:
        places: New path and old path of each.
        how: `copy`, `link` or `none`.
    """
    for new, old in places.items() if how != "none" else ():
        new.parent.mkdir(parents=True, exist_ok=True)
        if not (how == "link" and _linked(old, new)):
            open_plain(old).close()  # a link may lead to a device that has no end
            with atomic_write(new, "the image", sync=False) as part:
                shutil.copyfile(old, part)


def _linked(old: Path, new: Path) -> bool:
    """Link what a file is or leads to, and return whether the file system has such links."""
    source = Path(os.path.realpath(old))  # a link to a relative path would lead elsewhere
    try:
        if is_file(source):
            os.link(source, new)
            return True
    except OSError:
        pass
    return False


def _places(sets: Mapping[str, AnnotationSet], to: str) -> dict[Path, Path]:
    """Return where images belong in a format's layout: their paths by the new ones, below the folder to write."""
    places: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for split, part in sets.items():
        place = annotation_formats()[to].place if to not in _CLASSES else split_folder
        within = place(split) if to != "folders" else Path() if split == "all" else Path(split)
        for image in part.images:
            if to == "folders" and image.label is None:
                continue
            name = Path(image.label or "") / Path(image.name).name if to == "folders" else Path(image.name)
            new, old = within / name, part.folder / image.name
            if leads_out(name.as_posix()):
                raise ValueError(f"the name {name.as_posix()!r} leads out of the folder to write.")
            key = new if to in _CLASSES or not annotation_formats()[to].per_image else new.with_suffix("")
            if key in taken:
                raise ValueError(
                    f"{_shown(taken[key])} and {_shown(old)} would share a file of {to}, named like its image."
                )
            taken[key] = old
            places[new] = old
    return places


def _check_names(sets: Mapping[str, AnnotationSet], to: str) -> None:
    """Refuse names that a format has no way to write, before anything is written."""
    classes = {name for part in sets.values() for name in (*part.categories, *part.mask_classes)}
    classes |= {image.label for part in sets.values() for image in part.images if image.label}
    if to in _CLASSES:
        wrong = [name for name in classes if to == "csv" and not is_text(name)]
    else:
        files = {image.name for part in sets.values() for image in part.images}
        wrong = annotation_formats()[to].refused(classes, files)
    if wrong:
        raise ValueError(
            f"{to} has no place for the name '{_shown(min(wrong))}' ({len(wrong)} in all), which is not UTF-8 or has "
            f"control characters: rename it, or choose another format ({argument('to')})."
        )


def _check_fits(sets: Mapping[str, AnnotationSet], to: str) -> None:
    """Refuse what a format cannot hold at all, and say what it leaves out."""
    labels = [image.label for part in sets.values() for image in part.images]
    if (to in _CLASSES) != any(labels):
        there = "classes of whole images" if any(labels) else "objects or masks"
        raise ValueError(f"there are {there} here, which {to} has no place for ({argument('to')}).")
    if to in _CLASSES:
        nested = sorted({label for label in labels if label and "/" in label})
        if to == "folders" and nested:
            raise ValueError(f"class {nested[0]!r} has a slash: a folder cannot be named so.")
        if to == "folders" and None in labels:
            log.warning("%d images without a class are left out.", labels.count(None))
        return
    objects = [item for part in sets.values() for image in part.images for item in image.objects]
    masks = any(image.mask for part in sets.values() for image in part.images)
    outlines = [item for item in objects if item.segmentation]
    if to == "masks" and not masks and not outlines:
        raise ValueError(
            f"there are boxes only, no outlines and no masks: class masks cannot be made of them ({argument('to')})."
        )
    if to != "masks" and not any(part.categories for part in sets.values()):
        raise ValueError(
            f"there are class masks only, which do not tell objects apart: {to} needs objects ({argument('to')})."
        )
    said = [f"{count} {name}" for name, count in annotation_formats()[to].lost(sets).items() if count]
    if said:
        log.warning("%s has no place for %s.", to, " and ".join(said))
