"""One door to all formats."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lit_cv.annotations.checks import MaskFacts, check_masks, check_set
from lit_cv.annotations.coco import find_coco_files, read_coco, write_coco
from lit_cv.annotations.masks import mask_class_names, mask_folders, read_masks, write_masks
from lit_cv.annotations.records import AnnotationSet, Problems
from lit_cv.annotations.sizes import SizesOf, file_sizes
from lit_cv.annotations.voc import read_voc, write_voc
from lit_cv.annotations.yolo import find_yolo_file, read_yolo, write_yolo

__all__ = ["FORMATS", "WRITERS", "Format", "find_format", "read_annotations"]

Format = Literal["coco", "voc", "yolo", "masks"]
FORMATS: tuple[Format, ...] = ("coco", "voc", "yolo", "masks")
WRITERS: dict[Format, Callable[[Mapping[str, AnnotationSet], Path], list[Path]]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "masks": write_masks,
}


def find_format(root: Path) -> Format:
    """Return the format of a folder of annotated images.

    Raises:
        FileNotFoundError: If none is recognised.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root.absolute()}: set --data.root.")
    if any((root / "Annotations").rglob("*.xml")) or any(root.glob("*.xml")) or any(root.glob("*/*.xml")):
        return "voc"
    yolo = find_yolo_file(root)
    if yolo is not None and (yolo.name != "classes.txt" or _first(root / "labels", "*.txt") or _first(root, "*.txt")):
        return "yolo"
    try:
        mask_folders(root)
        return "masks"
    except FileNotFoundError:
        pass
    if find_coco_files(root):
        return "coco"
    if any((root / folder).is_dir() and any((root / folder).rglob("*.png")) for folder in ("masks", "mask", "ann_dir")):
        return "masks"  # their images lie elsewhere
    raise FileNotFoundError(
        f"{root.absolute()} holds no annotations of a known format ({', '.join(FORMATS)}): set --data.root."
    )


def _first(folder: Path, pattern: str) -> Path | None:
    return next((path for path in folder.rglob(pattern) if path.name != "classes.txt"), None)


def read_annotations(
    root: Path,
    problems: Problems,
    format: Format | None = None,
    files: Mapping[str, Path] | None = None,
    folders: Mapping[str, Path] | None = None,
    sizes: SizesOf = file_sizes,
    mask_facts: MaskFacts | None = None,
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

    Returns:
        A set for each of `train`, `val` and `test` that is there; `all` where there are no splits.

    Raises:
        FileNotFoundError: If there are no annotations, or of another format.
    """
    format = format or ("coco" if files else find_format(root))
    if format == "coco":
        sets = read_coco(root, problems, files, folders)
    elif format == "voc":
        sets = read_voc(root, problems, folders)
    elif format == "yolo":
        sets = read_yolo(root, problems, sizes)
    else:
        sets = read_masks(root, problems, sizes, folders)
    checked: dict[str, AnnotationSet] = {}
    greatest = -1
    for split, part in sets.items():
        names = part.mask_classes or mask_class_names(root)
        if format == "voc" and not names and any(image.mask for image in part.images):
            names = ["background", *part.categories]
        part = replace(part, mask_classes=names)
        part = check_set(part, sizes(part.folder, [image.name for image in part.images]), problems)
        checked[split], found = check_masks(part, problems, mask_facts)
        greatest = max(greatest, found)
    if greatest >= 0 and not any(part.mask_classes for part in checked.values()):
        numbers = [str(number) for number in range(greatest + 1)]
        checked = {split: replace(part, mask_classes=numbers) for split, part in checked.items()}
    return checked
