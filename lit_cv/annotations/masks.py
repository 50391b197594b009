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
"""Which pixels `draw_classes` chooses: masks that were drawn and kept under another value are drawn anew."""


def save_mask(mask: NDArray[np.integer], path: Path) -> None:
    """Write a class mask as a PNG with VOC's colors, in which the values stand as they are.

    Args:
        mask: (H, W), values from 0 to 255.
        path: The file; its folder is made if it is missing.
    """
    from PIL import Image

    make_folder(path.parent, path.parent)
    image = Image.fromarray(np.asarray(mask).astype(np.uint8))
    image.putpalette(_palette().tobytes())
    with atomic_write(path, "the mask", sync=False) as part:
        image.save(part, format="PNG")


def _palette() -> NDArray[np.uint8]:
    """Return VOC's colors: the bits of a class number, spread over the three channels from the highest bit on."""
    numbers, colors = np.arange(256), np.zeros((256, 3), dtype=np.uint8)
    for step in range(8):
        for channel in range(3):
            bit = (numbers >> (3 * step + channel)) & 1
            colors[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    return colors


def draw_classes(image: AnnotatedImage, fitted: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Draw the class of each pixel from the outlines of the objects: 0 for the background, the class plus 1 else.

    Smaller objects lie on larger ones. Where an object has a box and no outline, its class is not known: 255.

    Args:
        image: The image with its objects.
        fitted: Height and width of the mask; `None` takes those of the image.
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
    """Return the names of mask values from 0, one in each line of `classes.txt`; nothing if there is no such file."""
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

    That is `images/*` and `masks/*.png`, with or without folders `train`, `val` and `test`, below or above them, or
    `train`, `trainannot` and so on; `classes.txt` names the values, one a line from 0.

    Args:
        root: The folder.
        problems: Where masks without an image are noted.
        sizes: Returns the sizes of image files.
        folders: Folder of the images of each split, if they lie elsewhere.
        where: Template of the paths of masks, as `find_mask_files` takes it.

    Returns:
        A set for each of `train`, `val` and `test` that is there; `all` where there are no splits.

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
            log.warning(
                "%d of %d images in %s have no mask and are left out.", count, count + len(images), files.images
            )
        for image, size in zip(images, sizes(files.images, list(files.found)), strict=True):
            if not isinstance(size, str):
                image.height, image.width = size
        sets[split] = AnnotationSet(files.images, [], images, mask_classes=names)
    return sets


def write_masks(sets: Mapping[str, AnnotationSet], root: Path) -> list[Path]:
    """Write the class of each pixel as `masks/SPLIT/*.png` and the classes' names as `classes.txt`.

    Masks are those of the images where they have them, otherwise drawn from the objects' outlines.

    Args:
        sets: A set for each split; the split `all` gets no folder of its own.
        root: The folder, made if it is missing.

    Returns:
        The files written.
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
        places = [masks for _, masks in mask_folders(root).values()]
    except FileNotFoundError:
        # their images lie in another place
        found = any(any(files_below(root / name, IMAGE_SUFFIXES)) for name in MASK_FOLDERS[:3])
        return Sign.LIKELY if found else Sign.NONE
    if all("SegmentationClass" in place.parts for place in places):
        return Sign.GUESS  # VOC's own
    shared = all({"labels", "annotations"} & set(place.parts) for place in places)  # what other formats have as well
    return Sign.LIKELY if shared else Sign.SURE


def _lost(sets: Mapping[str, AnnotationSet]) -> dict[str, int]:
    images = [image for part in sets.values() for image in part.images]
    drawn = [item for image in images if not image.mask for item in image.objects]
    plain = [item for item in drawn if not item.segmentation]
    return {
        "single objects (touching ones of a class become one area)": len(drawn) - len(plain),
        "boxes without an outline (their pixels become 255, unknown)": len(plain),
        "objects of images that have a mask already (the mask is taken as it is)": sum(
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
