"""From one annotation format to another."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lit_cv.annotations.formats import WRITERS, Format, read_annotations
from lit_cv.annotations.records import AnnotationSet, Problems

__all__ = ["convert", "place_images"]

log = logging.getLogger("lit_cv")

Placing = Literal["copy", "link", "none"]


def convert(
    root: str,
    out: str,
    to: Literal["coco", "voc", "yolo", "masks"],
    source: Literal["auto", "coco", "voc", "yolo", "masks"] = "auto",
    images: Placing = "copy",
    on_error: Literal["raise", "skip"] = "raise",
) -> dict[str, AnnotationSet]:
    """Read a folder of annotated images, check it, and write it in another format, in a folder of its own.

    Args:
        root: The folder, in a layout of `AnnotatedImagesDataModule`.
        out: The folder to write, which must be empty or missing.
        to: Format to write: COCO JSON, Pascal VOC XML, YOLO text files, or class masks as PNG files.
        source: Format to read; `auto` finds out.
        images: Whether images are copied, linked (hard links, where the file system has them) or left where they are.
        on_error: What a wrong entry does: `raise` stops and lists all of them, `skip` leaves them out and counts them.

    Returns:
        The sets that were written.

    Raises:
        FileNotFoundError: If there are no annotations.
        AnnotationError: If entries are wrong and `on_error` is `raise`.
        ValueError: If `out` is not empty, the format cannot hold what there is, or two images would share a file.
    """
    target = Path(out).expanduser()
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target.absolute()} is not empty: give another folder (--out).")
    problems = Problems()
    sets = read_annotations(Path(root).expanduser(), problems, None if source == "auto" else source)
    if on_error == "raise":
        problems.stop(" (--on_error skip leaves them out)")
    elif len(problems):
        log.warning("%d entries are left out:\n%s", len(problems), problems)
    _check_fits(sets, to)
    places = _places(sets, to, target)
    written = WRITERS[to](sets, target)
    place_images(places, images)
    count = sum(len(part.images) for part in sets.values())
    objects = sum(len(image.objects) for part in sets.values() for image in part.images)
    log.info("%d images with %d objects: %d files in %s", count, objects, len(written), target)
    return sets


def place_images(places: Mapping[Path, Path], how: Placing) -> None:
    """Copy or link image files.

    Args:
        places: New path and old path of each.
        how: `copy`, `link` or `none`.
    """
    for new, old in places.items() if how != "none" else ():
        new.parent.mkdir(parents=True, exist_ok=True)
        if how == "link":
            try:
                os.link(old, new)
                continue
            except OSError:
                pass
        shutil.copyfile(old, new)


def _places(sets: Mapping[str, AnnotationSet], to: Format, target: Path) -> dict[Path, Path]:
    """Return where images belong in a format's layout, by their new paths."""
    places: dict[Path, Path] = {}
    stems: dict[Path, Path] = {}
    for split, part in sets.items():
        within = {"voc": Path("JPEGImages"), "coco": Path(split)}.get(to, Path("images") / split)
        folder = target / (Path("images") if split == "all" and to != "voc" else within)
        for image in part.images:
            new, old = folder / image.name, part.folder / image.name
            other = stems.get(new.with_suffix(""))
            if other is not None and to != "coco":
                raise ValueError(f"{other} and {old} would share a file of {to}, which is named like its image.")
            stems[new.with_suffix("")] = old
            places[new] = old
    return places


def _check_fits(sets: Mapping[str, AnnotationSet], to: Format) -> None:
    """Refuse what a format cannot hold at all, and say what it leaves out."""
    objects = [item for part in sets.values() for image in part.images for item in image.objects]
    masks = any(image.mask for part in sets.values() for image in part.images)
    outlines = [item for item in objects if item.segmentation]
    if to == "masks" and not masks and not outlines:
        raise ValueError("there are boxes only, no outlines and no masks: class masks cannot be made of them (--to).")
    if to != "masks" and not any(part.categories for part in sets.values()):
        raise ValueError(f"there are class masks only, which do not tell objects apart: {to} needs objects (--to).")
    crowds = [item for item in objects if item.crowd]
    several = [
        o for o in outlines if not o.crowd and not (isinstance(o.segmentation, list) and len(o.segmentation) == 1)
    ]
    lost = {
        "voc": {"outlines": len(outlines), "crowds": len(crowds)},
        "yolo": {"outlines of several parts (their boxes stay)": len(several), "crowds": len(crowds)},
        "coco": {"class masks": int(masks)},
    }.get(to, {})
    said = [f"{count} {name}" if name != "class masks" else name for name, count in lost.items() if count]
    if said:
        log.warning("%s has no place for %s.", to, " and ".join(said))
