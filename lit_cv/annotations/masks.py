"""Class masks: PNG files with the class of each pixel."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign
from lit_cv.annotations.layout import inside, is_text, make_folder
from lit_cv.annotations.mask_files import MASK_FOLDERS, find_mask_files, mask_folders
from lit_cv.annotations.mask_values import load_mask
from lit_cv.annotations.reading import read_names
from lit_cv.annotations.records import AnnotatedImage, AnnotationSet, Problems
from lit_cv.annotations.rle import outline_area, outline_mask
from lit_cv.annotations.sizes import SizesOf, file_sizes
from lit_cv.annotations.walk import files_below
from lit_cv.atomic_files import atomic_write, write_text
from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.image_formats import IMAGE_SUFFIXES

log = logging.getLogger("lit_cv")

__all__ = [
    "DRAWING",
    "draw_classes",
    "mask_class_names",
    "read_masks",
    "save_mask",
    "write_masks",
]

DRAWING = "polygons as COCO draws them"
"""Version of how `draw_classes` draws: cached masks with another value are drawn again."""


def save_mask(mask: NDArray[np.integer], path: Path) -> None:
    """Write a class mask as a PNG with VOC's palette; the stored values are those of the mask.

    Args:
        mask: (H, W), values from 0 to 255.
        path: The file; its folder is created if missing.
    """
    from PIL import Image

    make_folder(path.parent, path.parent)
    image = Image.fromarray(np.asarray(mask).astype(np.uint8))
    image.putpalette(_palette().tobytes())
    with atomic_write(path, "the mask", sync=False) as part:
        image.save(part, format="PNG")


def _palette() -> NDArray[np.uint8]:
    """Return VOC's palette: bits of the class number in turn to red, green and blue, from the highest bit down."""
    numbers, colors = np.arange(256), np.zeros((256, 3), dtype=np.uint8)
    for step in range(8):
        for channel in range(3):
            bit = (numbers >> (3 * step + channel)) & 1
            colors[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    return colors


def draw_classes(image: AnnotatedImage, fitted: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Draw a class mask from the outlines of the objects: 0 for background, otherwise the class plus 1.

    Smaller objects cover larger ones. The box of an object without an outline becomes 255 (unknown).

    Args:
        image: The image with its objects.
        fitted: Height and width of the mask; `None` uses those of the image.
    """
    size = (image.height, image.width)
    height, width = fitted or size
    mask = np.zeros((height, width), dtype=np.uint8)

    def area(position: int) -> float:
        item = image.objects[position]
        left, top, right, bottom = item.box
        return outline_area(item.segmentation) if item.segmentation else (right - left) * (bottom - top)

    for position in sorted(range(len(image.objects)), key=area, reverse=True):
        item = image.objects[position]
        if item.segmentation:
            mask[outline_mask(item.segmentation, size, (height, width))] = item.category + 1
        else:
            y, x = height / size[0], width / size[1]
            left, top, right, bottom = item.box
            mask[max(0, round(top * y)) : round(bottom * y), max(0, round(left * x)) : round(right * x)] = IGNORE_INDEX
    return mask


def mask_class_names(root: Path) -> list[str]:
    """Return the names of mask values from 0, the lines of `classes.txt`; empty without that file."""
    path = root / "classes.txt"
    return read_names(path) if path.is_file() else []


def read_masks(
    root: Path,
    problems: Problems,
    sizes: SizesOf = file_sizes,
    folders: Mapping[str, Path] | None = None,
    where: str | None = None,
) -> dict[str, AnnotationSet]:
    """Read a folder with images and masks of the same names.

    Layouts are `images/*` and `masks/*.png`, optionally with folders `train`, `val` and `test` below or above them,
    or `train`, `trainannot` and so on. `classes.txt` names the values, one per line from 0.

    Args:
        root: The folder.
        problems: Collects masks without an image.
        sizes: Returns the sizes of image files.
        folders: Image folder of each split, if not in `root`.
        where: Template of mask paths, see `find_mask_files`.

    Returns:
        A set for each of `train`, `val` and `test` found; one named `all` if there are no splits.

    Raises:
        FileNotFoundError: If there are no such folders.
    """
    names = mask_class_names(root)
    sets = {}
    for split, files in find_mask_files(root, folders, where).items():
        images = [AnnotatedImage(name, 0, 0, mask=mask, source=mask) for name, mask in files.found.items()]
        for mask in files.unused:
            problems.add(mask, "", f"there is no image of that name in {files.images}")
        if count := len(files.without):
            log.warning("%d of %d images in %s have no mask and are skipped.", count, count + len(images), files.images)
        for image, size in zip(images, sizes(files.images, list(files.found)), strict=True):
            if not isinstance(size, str):
                image.height, image.width = size
        sets[split] = AnnotationSet(files.images, [], images, mask_classes=names)
    return sets


def write_masks(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write class masks as `masks/SPLIT/*.png` and class names as `classes.txt`.

    Existing masks are copied; others are drawn from the outlines of the objects.

    Args:
        sets: A set for each split; the split `all` gets no subfolder.
        root: The folder, created if missing.

    Returns:
        The written files.
    """
    written = []
    names: Sequence[str] = []
    for split, part in sets.items():
        names = part.mask_classes or (["background", *part.categories] if part.categories else names)
        for image in part.images:
            folder = root / "masks" if split == "all" else root / "masks" / split
            path = inside(folder, image.name).with_suffix(".png")
            make_folder(path.parent, root)
            save_mask(load_mask(image.mask, code=part.mask_code) if image.mask else draw_classes(image), path)
            written.append(path)
    if names:
        make_folder(root, root)
        write_text(root / "classes.txt", "".join(f"{name}\n" for name in names), "the classes' names")
        written.append(root / "classes.txt")
    return written


def _find(root: Path) -> Sign:
    try:
        folders = [masks for _, masks in mask_folders(root).values()]
    except FileNotFoundError:
        # the images may be elsewhere
        found = any(any(files_below(root / name, IMAGE_SUFFIXES)) for name in MASK_FOLDERS[:3])
        return Sign.LIKELY if found else Sign.NONE
    if all("SegmentationClass" in folder.parts for folder in folders):
        return Sign.GUESS  # VOC
    shared = all(
        {"labels", "annotations"} & set(folder.parts) for folder in folders
    )  # names that other formats use, too
    return Sign.LIKELY if shared else Sign.SURE


def _lost(sets: Mapping[str, AnnotationSet]) -> dict[str, int]:
    images = [image for part in sets.values() for image in part.images]
    drawn = [item for image in images if not image.mask for item in image.objects]
    boxes = [item for item in drawn if not item.segmentation]
    return {
        "separate objects (touching objects of a class are merged)": len(drawn) - len(boxes),
        "boxes without an outline (their pixels become 255, unknown)": len(boxes),
        "objects of images that already have a mask (the mask is copied)": sum(
            len(image.objects) for image in images if image.mask
        ),
    }


FORMAT = AnnotationFormat(
    "masks",
    _find,
    lambda source: read_masks(source.root, source.problems, source.sizes, source.folders, source.masks.where),
    write_masks,
    order=50,
    lost=_lost,
    refused=lambda classes, files: [name for name in classes if not is_text(name) or "\n" in name],
)
