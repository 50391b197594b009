"""Instance masks: images with a value for each object, converted to boxes, outlines and classes."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lit_cv.annotations.annotation_format import AnnotationFormat, Sign
from lit_cv.annotations.mask_files import MASK_FOLDERS, find_mask_files
from lit_cv.annotations.mask_naming import MaskOptions, find_palette, mask_code, read_palette
from lit_cv.annotations.mask_values import inspect_mask, load_mask, load_objects
from lit_cv.annotations.masks import mask_class_names
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationSet, Problems
from lit_cv.annotations.rle import decode_rle, outline_box
from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.printable import printable

log = logging.getLogger("lit_cv")

__all__ = ["read_instances"]

_FOLDERS = ("instances", "instance_masks", "SegmentationObject", *(n for n in MASK_FOLDERS if n != "SegmentationClass"))
_OBJECTS, _CLASSES = "SegmentationObject", "SegmentationClass"
_CLASS_FACTOR = 1000  # Cityscapes: value = 1000 * class + object number; smaller values are regions, not objects

ClassOf = Callable[[AnnotatedImage, AnnotatedObject], int]


def read_instances(
    root: Path,
    problems: Problems,
    folders: Mapping[str, Path] | None = None,
    options: MaskOptions = MaskOptions(),  # noqa: B008 - immutable
) -> dict[str, AnnotationSet]:
    """Read a folder with images and instance masks of the same names.

    A mask has a value or a color for each object, and 0 elsewhere. An object's class comes from the class mask in
    VOC's layout (`SegmentationClass` beside `SegmentationObject`), or from its value if values reach 1000, as in
    Cityscapes (1000 * class + number; values below 1000 are not single objects). Otherwise all objects have one
    class. `classes.txt` names the classes from 0 (the background), or only that one class.

    Args:
        root: The folder.
        problems: Collects unreadable masks and objects without a class.
        folders: Image folder of each split, if not in `root`.
        options: How masks are read, and where they are.

    Returns:
        A set for each of `train`, `val` and `test` found; one named `all` if there are no splits.

    Raises:
        FileNotFoundError: If there are no such folders.
        ValueError: If there are names of several classes, but nothing that assigns objects to them.
    """
    sets = {}
    for split, files in find_mask_files(root, folders, options.where, _FOLDERS).items():
        for mask in files.unused:
            problems.add(mask, "", f"there is no image of that name in {files.images}")
        if files.without:
            shown = printable(str(files.images), lines=False)
            log.warning("%d images in %s have no mask and are skipped.", len(files.without), shown)
        images = (_image(name, mask, problems) for name, mask in files.found.items())
        sets[split] = AnnotationSet(files.images, [], [image for image in images if image is not None])
    categories, class_of = _classes(root, sets, options)
    for part in sets.values():
        part.categories = categories
        for image in part.images:
            _classify(image, class_of, len(categories), problems)
    return sets


def _image(name: str, mask: Path, problems: Problems) -> AnnotatedImage | None:
    facts = inspect_mask(mask)
    if isinstance(facts, str):
        problems.add(mask, "", facts)
        return None
    try:
        outlines = load_objects(mask)
    except Exception as error:  # decoders raise all kinds of errors for broken files
        problems.add(mask, "", str(error).removeprefix(f"{mask} "))
        return None
    image = AnnotatedImage(name, facts[0], facts[1], source=mask)
    for value, outline in outlines.items():
        image.objects.append(AnnotatedObject(-1, outline_box(outline), outline, id=value))
    return image


def _classes(root: Path, sets: Mapping[str, AnnotationSet], options: MaskOptions) -> tuple[list[str], ClassOf]:
    """Return class names and a function from object to class: -1 for no class, -2 for a region to skip."""
    names = mask_class_names(root)
    images = [image for part in sets.values() for image in part.images]
    masks = {image.source: _class_mask(image.source) for image in images if image.source is not None}
    if any(path is not None for path in masks.values()):
        facts = [inspect_mask(path) for path in masks.values() if path is not None]
        file = options.palette or find_palette(root)
        code = mask_code(names, facts, read_palette(file) if file else None, options.ignore)

        def by_mask(image: AnnotatedImage, item: AnnotatedObject) -> int:
            path = masks.get(image.source) if image.source is not None else None
            if path is None or not isinstance(item.segmentation, dict):
                return -1
            pixel_classes = load_mask(path, code=code)[decode_rle(item.segmentation)]
            number = int(np.bincount(pixel_classes, minlength=1).argmax())
            return -1 if number == IGNORE_INDEX else number - 1

        return code.names[1:], by_mask
    values = {item.id or 0 for image in images for item in image.objects}
    if max(values, default=0) >= _CLASS_FACTOR:
        numbers = sorted({value // _CLASS_FACTOR for value in values if value >= _CLASS_FACTOR})
        position = {number: k for k, number in enumerate(numbers)}
        categories = [names[number] if number < len(names) else str(number) for number in numbers]
        return categories, lambda image, item: position.get((item.id or 0) // _CLASS_FACTOR, -2)
    if len(names) > 2:
        shown = printable(", ".join(names[:20]), lines=False)
        raise ValueError(
            f"{root}: the mask values number the objects, but not their classes ({shown}): keep one name in "
            "classes.txt, or add class masks in SegmentationClass beside SegmentationObject."
        )
    return names[-1:] or ["object"], lambda image, item: 0


def _class_mask(mask: Path) -> Path | None:
    """Return the class mask that belongs to an instance mask of VOC's layout."""
    if _OBJECTS not in mask.parts:
        return None
    path = Path(*(_CLASSES if part == _OBJECTS else part for part in mask.parts))
    return path if path.is_file() else None


def _classify(image: AnnotatedImage, class_of: ClassOf, count: int, problems: Problems) -> None:
    kept = []
    for item in image.objects:
        item.category = class_of(image, item)
        if 0 <= item.category < count:
            kept.append(item)
        elif item.category != -2:  # not a region
            problems.add(image.source, f"value {item.id}", "the class mask has no class there")
    image.objects = kept


FORMAT = AnnotationFormat(
    "instances",
    lambda root: Sign.NONE,  # instance masks look like class masks
    lambda source: read_instances(source.root, source.problems, source.folders, source.masks),
    order=60,
)
