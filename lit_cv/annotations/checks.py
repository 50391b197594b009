"""What is checked of annotations, whatever their format."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lit_cv.annotations.layout import leads_out
from lit_cv.annotations.mask_code import MaskCode
from lit_cv.annotations.mask_values import MaskFact
from lit_cv.annotations.records import AnnotatedImage, AnnotatedObject, AnnotationSet, Problems
from lit_cv.annotations.rle import polygon_points, rle_counts
from lit_cv.annotations.sizes import FileSize, is_turned
from lit_cv.errors import argument
from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["OUTSIDE", "check_masks", "check_object", "check_set", "unknown_category"]

OUTSIDE = "its name leads out of the folder of the images: names are relative to it, without .."
_SLACK = 1.0  # pixels that a box may reach beyond the image, as rounding tools leave it


def check_object(item: AnnotatedObject, height: float, width: float) -> str | None:
    """Return what is wrong with an object, `None` if nothing is.

    Args:
        item: The object.
        height: Height of its image in pixels.
        width: Width of its image in pixels.

    Example:
        >>> check_object(AnnotatedObject(0, (5.0, 5.0, 5.0, 9.0)), 10, 10)
        'its box (5, 5, 5, 9) has no area'
    """
    left, top, right, bottom = item.box
    shown = f"its box ({left:g}, {top:g}, {right:g}, {bottom:g})"
    if right < left or bottom < top:
        return f"{shown} ends before it begins: these are left, top, right and bottom"
    if not (right > left and bottom > top):  # true of NaN as well
        return f"{shown} has no area"
    if left < -_SLACK or top < -_SLACK or right > width + _SLACK or bottom > height + _SLACK:
        return f"{shown} is not inside the image of {width:g} x {height:g} pixels"
    if item.score is not None and not 0 <= item.score <= 1:
        return f"its score {item.score:g} is not in [0, 1]"
    if isinstance(item.segmentation, list):
        return _check_polygons(item.segmentation, height, width)
    if isinstance(item.segmentation, dict):
        size = item.segmentation.get("size")
        try:
            if size is None or [int(side) for side in size] != [height, width]:
                return f"its RLE has the size {size}, the image is {height:g} x {width:g} (height x width)"
            rle_counts(item.segmentation)
        except (TypeError, ValueError, OverflowError) as error:
            return f"its RLE is none: {error}" if not isinstance(error, ValueError) else str(error)
    return None


def _check_polygons(polygons: list[list[float]], height: float, width: float) -> str | None:
    for polygon in polygons:
        try:
            points = polygon_points(polygon)
        except ValueError as error:
            return str(error)
        if points.min() < -_SLACK or (points.max(0) > (width + _SLACK, height + _SLACK)).any():
            return f"its polygon is not inside the image of {width:g} x {height:g} pixels"
    return None


def unknown_category(name: object, known: Sequence[str]) -> str:
    """Return the words for a category that does not exist."""
    shown = f"{', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
    return printable(f"unknown category {name!r}{nearest(str(name), known)} Known are: {shown or 'none'}.", lines=False)


def check_set(annotations: AnnotationSet, found: Sequence[FileSize], problems: Problems) -> AnnotationSet:
    """Return the images and objects that nothing is wrong with, and note the others.

    An image is left out if it is listed twice, cannot be read, or is of another size than noted (a size of 0 is
    filled in); an object if its box has no area or is not inside the image, or its outline is none.

    Args:
        annotations: The set.
        found: For each image (height, width) of the file, or a string that says why it cannot be read.
        problems: Where the others are noted.
    """
    seen: set[str] = set()
    images = []
    for image, size in zip(annotations.images, found, strict=True):
        source = image.source or annotations.folder / image.name
        if leads_out(image.name):
            problems.add(source, f"image {image.name!r}", OUTSIDE)
        elif posixpath.normpath(image.name) in seen:
            problems.add(source, f"image {image.name!r}", "is listed twice")
        elif isinstance(size, str):
            problems.add(source, f"image {image.name!r}", size)
        elif (wrong := _check_size(annotations.folder / image.name, (image.height, image.width), size)) is not None:
            problems.add(source, f"image {image.name!r}", wrong)
        else:
            objects = []
            for item in image.objects:
                if (what := check_object(item, *size)) is None:
                    objects.append(item)
                else:
                    problems.add(source, f"{annotations.entry} {item.id}", what)
            images.append(replace(image, height=size[0], width=size[1], objects=objects))
        seen.add(posixpath.normpath(image.name))
    return replace(annotations, images=images)


def check_masks(
    annotations: AnnotationSet, facts: Mapping[Path, MaskFact], code: MaskCode, problems: Problems
) -> AnnotationSet:
    """Return the images whose masks can be read and fit, and note the others.

    Args:
        annotations: The set.
        facts: What `inspect_mask` returns for each mask.
        code: What their values stand for; other values are wrong.
        problems: Where the others are noted.
    """
    kept = []
    for image in annotations.images:
        what = None if image.mask is None else _check_mask(image, facts[image.mask], code)
        if what is None:
            kept.append(image)
        else:
            problems.add(image.mask, "", what)
    return replace(annotations, images=kept)


def _check_mask(image: AnnotatedImage, fact: MaskFact, code: MaskCode) -> str | None:
    if isinstance(fact, str):
        return fact
    if fact[:2] != [image.height, image.width]:
        return f"the mask has {fact[1]} x {fact[0]} pixels, its image {image.width} x {image.height}"
    return next((what for k in range(2, len(fact), 3) if (what := _check_value(fact[k], fact[k + 1], code))), None)


def _check_value(value: int, color: int, code: MaskCode) -> str | None:
    if (color if code.colors else value) in code.classes:
        return None
    if code.colors or value < 0:
        shown = f"the mask has the color ({color >> 16}, {color >> 8 & 255}, {color & 255})"
        return (
            f"{shown}, which has no name"
            if code.colors
            else f"{shown}: name its colors in a file ({argument('palette')})"
        )
    valid = {value for value, number in code.classes.items() if number != IGNORE_INDEX}
    if not valid or value > IGNORE_INDEX:
        return f"the mask holds {value}: classes are numbered up to 254, 255 is ignored"
    dense = valid == set(range(len(valid)))
    numbers = f"0 to {len(valid) - 1}" if dense else ", ".join(map(str, sorted(valid)[:20]))
    return f"the mask holds {value}, but its values are {numbers} and 255: {', '.join(code.names[:20])}"


def _check_size(path: Path, noted: tuple[int, int], size: tuple[int, int]) -> str | None:
    if noted == size or min(noted) <= 0:
        return None
    turned = " once turned as its EXIF says" if noted == size[::-1] and is_turned(path) else ""
    return f"the file has {size[1]} x {size[0]} pixels{turned}, its annotation says {noted[1]} x {noted[0]}"
