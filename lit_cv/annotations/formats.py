"""One door to all formats."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lit_cv.annotations.checks import check_masks, check_set
from lit_cv.annotations.coco import find_coco_files, read_coco, write_coco
from lit_cv.annotations.instances import read_instances
from lit_cv.annotations.mask_files import mask_folders
from lit_cv.annotations.mask_naming import (
    MaskFacts,
    MaskOptions,
    describe_masks,
    find_palette,
    mask_code,
    read_palette,
)
from lit_cv.annotations.mask_values import inspect_mask
from lit_cv.annotations.masks import mask_class_names, read_masks, write_masks
from lit_cv.annotations.reading import open_plain
from lit_cv.annotations.records import AnnotationError, AnnotationSet, Problems
from lit_cv.annotations.sizes import SizesOf, file_sizes
from lit_cv.annotations.voc import read_voc, write_voc
from lit_cv.annotations.walk import MASK_SUFFIXES, files_below
from lit_cv.annotations.yolo import read_yolo, write_yolo
from lit_cv.annotations.yolo_files import find_yolo_file

__all__ = ["FORMATS", "WRITERS", "Format", "find_format", "read_annotations"]

log = logging.getLogger("lit_cv")

_XML = (".xml",)
_HEAD = 65536  # bytes in which a COCO file names one of its lists

Format = Literal["coco", "voc", "yolo", "masks", "instances"]
FORMATS: tuple[Format, ...] = ("coco", "voc", "yolo", "masks", "instances")
WRITERS: dict[Format, Callable[[Mapping[str, AnnotationSet], Path], list[Path]]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "masks": write_masks,
}


_AS_FOUND = MaskOptions()


def find_format(root: Path, option: str = "--data.format") -> Format:
    """Return the format of a folder of annotated images; where it holds several, say which is read.

    Args:
        root: The folder.
        option: The option that chooses a format, for messages.

    Raises:
        FileNotFoundError: If none is recognised.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root.absolute()}: set --data.root.")
    found = list(_formats(root))
    if not found:
        raise FileNotFoundError(
            f"{root.absolute()} holds no annotations of a known format ({', '.join(FORMATS)}): set --data.root."
        )
    if len(found) > 1:
        others = " and ".join(found[1:])
        log.warning(
            "%s holds annotations of several formats: %s is read, not %s (%s chooses).", root, found[0], others, option
        )
    return found[0]


def _formats(root: Path) -> Iterator[Format]:
    """Give the formats that there are annotations of, those first that are taken first."""
    folders = [root, *(path for path in root.glob("*") if path.is_dir())]
    voc = any(files_below(root / "Annotations", _XML)) or any(any(files_below(p, _XML, deep=False)) for p in folders)
    if voc:
        yield "voc"
    names = find_yolo_file(root)
    yolo = names is not None and (
        names.name != "classes.txt" or any(path.name != "classes.txt" for path in files_below(root, (".txt",)))
    )
    if yolo:
        yield "yolo"
    try:
        places = [masks for _, masks in mask_folders(root).values()]
        masks = not (voc and all("SegmentationClass" in place.parts for place in places))  # VOC's own are read with it
    except FileNotFoundError:
        masks = False
    if masks:
        yield "masks"
    if _is_coco(root, first=not (voc or yolo or masks)):
        yield "coco"
    elsewhere = ("masks", "mask", "ann_dir")  # their images lie in another place
    if not masks and any(any(files_below(root / folder, MASK_SUFFIXES)) for folder in elsewhere):
        yield "masks"


def _is_coco(root: Path, first: bool) -> bool:
    """Tell whether there are COCO's files; beside another format not every JSON file is taken for one."""
    try:
        files = find_coco_files(root)
    except ValueError:
        if first:
            raise
        return True
    return bool(files) and (first or any(_looks_like_coco(path) for path in files.values()))


def _looks_like_coco(path: Path) -> bool:
    try:
        with open_plain(path) as file:
            head = file.read(_HEAD)
    except AnnotationError:
        return False
    return any(key in head for key in (b'"images"', b'"annotations"', b'"categories"'))


def read_annotations(
    root: Path,
    problems: Problems,
    format: Format | None = None,
    files: Mapping[str, Path] | None = None,
    folders: Mapping[str, Path] | None = None,
    sizes: SizesOf = file_sizes,
    mask_facts: MaskFacts | None = None,
    masks: MaskOptions = _AS_FOUND,
) -> dict[str, AnnotationSet]:
    """Read a folder of annotated images, and check every entry.

    Args:
        root: The folder.
        problems: Where entries that are left out are noted.
        format: Its format; `None` finds out.
        files: COCO's file of each split; `None` looks for them.
        folders: Folder of the images of each split, but for YOLO; `None` looks for them.
        sizes: Returns the sizes of image files.
        mask_facts: Returns what `inspect_mask` does for mask files.
        masks: How masks are read.

    Returns:
        A set for each of `train`, `val` and `test` that is there; `all` where there are no splits.

    Raises:
        FileNotFoundError: If there are no annotations, or of another format.
        ValueError: If folders are given for YOLO.
    """
    format = format or ("coco" if files else "masks" if masks.where else find_format(root))
    if format == "yolo" and folders:
        raise ValueError("yolo's labels lie beside their images: --data.images does not go with it.")
    if format == "coco":
        sets = read_coco(root, problems, files, folders)
    elif format == "voc":
        sets = read_voc(root, problems, folders)
    elif format == "yolo":
        sets = read_yolo(root, problems, sizes)
    elif format == "instances":
        sets = read_instances(root, problems, folders, masks)
    else:
        sets = read_masks(root, problems, sizes, folders, masks.where)
    for split, part in sets.items():
        sets[split] = check_set(part, sizes(part.folder, [image.name for image in part.images]), problems)
    return _with_masks(
        root, format, sets, problems, mask_facts or (lambda paths: [inspect_mask(p) for p in paths]), masks
    )


def _with_masks(
    root: Path,
    format: Format,
    sets: Mapping[str, AnnotationSet],
    problems: Problems,
    mask_facts: MaskFacts,
    options: MaskOptions,
) -> dict[str, AnnotationSet]:
    """Find out what the values of all masks stand for, and check each mask."""
    first = next(iter(sets.values()))
    names = first.mask_classes or mask_class_names(root)
    paths = {split: [image.mask for image in part.images if image.mask] for split, part in sets.items()}
    every = [path for part in paths.values() for path in part]
    if not every:
        return {split: replace(part, mask_classes=names) for split, part in sets.items()}
    if format == "voc" and not names:
        names = ["background", *first.categories]
    file = options.palette or find_palette(root)
    palette = read_palette(file) if file else None
    facts = dict(zip(every, mask_facts(every), strict=True))
    code = mask_code(names, list(facts.values()), palette, options.ignore)
    checked = {split: check_masks(part, facts, code, problems) for split, part in sets.items()}
    training = next((checked[split] for split in ("train", "all") if split in checked), first)
    for said in describe_masks(code, [facts[i.mask] for i in training.images if i.mask], bool(names or palette)):
        log.warning("%s: %s", root, said)
    return {split: replace(part, mask_classes=code.names, mask_code=code) for split, part in checked.items()}
