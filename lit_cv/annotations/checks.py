"""Checks of annotations that apply to all formats."""

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

OUTSIDE = "its name points outside the image folder: use a relative path without .."
_SLACK = 1.0  # pixels by which a box may exceed the image, since tools round coordinates


def check_object(item: AnnotatedObject, height: float, width: float) -> str | None:
    """Return the problem with an object, or `None` if it is valid.

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
        return f"{shown} ends before it starts: the order is left, top, right, bottom"
    if not (right > left and bottom > top):  # also true for NaN
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
                return f"its RLE has size {size}, but the image is {height:g} x {width:g} (height x width)"
            rle_counts(item.segmentation)
        except (TypeError, ValueError, OverflowError) as error:
            return f"its RLE is invalid: {error}" if not isinstance(error, ValueError) else str(error)
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


def unknown_category(name: object, valid: Sequence[str]) -> str:
    """Return the message for an unknown category, with the valid names."""
    shown = f"{', '.join(valid[:20])}{', ...' if len(valid) > 20 else ''}"
    return printable(f"unknown category {name!r}{nearest(str(name), valid)} Known: {shown or 'none'}.", lines=False)


def check_set(annotations: AnnotationSet, sizes: Sequence[FileSize], problems: Problems) -> AnnotationSet:
    """Return the set without invalid images and objects, which are added to `problems`.

    An image is invalid if it is listed twice, cannot be read, or differs from its annotated size (a size of 0 is
    filled in). An object is invalid if its box has no area or is not inside the image, or its outline is malformed.

    Args:
        annotations: The set.
        sizes: (height, width) of each image file, or a string that says why it cannot be read.
        problems: Collects the invalid entries.
    """
    seen: set[str] = set()
    images = []
    for image, size in zip(annotations.images, sizes, strict=True):
        source = image.source or annotations.folder / image.name
        if leads_out(image.name):
            problems.add(source, f"image {image.name!r}", OUTSIDE)
        elif posixpath.normpath(image.name) in seen:
            problems.add(source, f"image {image.name!r}", "is listed twice")
        elif isinstance(size, str):
            problems.add(source, f"image {image.name!r}", size)
        elif (problem := _check_size(annotations.folder / image.name, (image.height, image.width), size)) is not None:
            problems.add(source, f"image {image.name!r}", problem)
        else:
            objects = []
            for item in image.objects:
                if (defect := check_object(item, *size)) is None:
                    objects.append(item)
                else:
                    problems.add(source, f"{annotations.entry} {item.id}", defect)
            images.append(replace(image, height=size[0], width=size[1], objects=objects))
        seen.add(posixpath.normpath(image.name))
    return replace(annotations, images=images)


def check_masks(
    annotations: AnnotationSet, facts: Mapping[Path, MaskFact], code: MaskCode, problems: Problems
) -> AnnotationSet:
    """Return the set without images whose masks are invalid, which are added to `problems`.

    Args:
        annotations: The set.
        facts: Result of `inspect_mask` for each mask.
        code: Meaning of the mask values; other values are invalid.
        problems: Collects the invalid masks.
    """
    kept = []
    for image in annotations.images:
        problem = None if image.mask is None else _check_mask(image, facts[image.mask], code)
        if problem is None:
            kept.append(image)
        else:
            problems.add(image.mask, "", problem)
    return replace(annotations, images=kept)


def _check_mask(image: AnnotatedImage, fact: MaskFact, code: MaskCode) -> str | None:
    if isinstance(fact, str):
        return fact
    if fact[:2] != [image.height, image.width]:
        return f"the mask has {fact[1]} x {fact[0]} pixels, but its image has {image.width} x {image.height}"
    return next((text for k in range(2, len(fact), 3) if (text := _check_value(fact[k], fact[k + 1], code))), None)


def _check_value(value: int, color: int, code: MaskCode) -> str | None:
    if (color if code.colors else value) in code.classes:
        return None
    if code.colors or value < 0:
        shown = f"the mask has the color ({color >> 16}, {color >> 8 & 255}, {color & 255})"
        return (
            f"{shown}, which has no name"
            if code.colors
            else f"{shown}: give a file that names the colors ({argument('palette')})"
        )
    valid = {value for value, number in code.classes.items() if number != IGNORE_INDEX}
    if not valid or value > IGNORE_INDEX:
        return f"the mask contains the value {value}: classes are 0 to 254, and 255 is ignored"
    dense = valid == set(range(len(valid)))
    numbers = f"0 to {len(valid) - 1}" if dense else ", ".join(map(str, sorted(valid)[:20]))
    return f"the mask contains the value {value}: valid are {numbers} ({', '.join(code.names[:20])}) and 255"


def _check_size(path: Path, annotated: tuple[int, int], size: tuple[int, int]) -> str | None:
    if annotated == size or min(annotated) <= 0:
        return None
    turned = " after EXIF rotation" if annotated == size[::-1] and is_turned(path) else ""
    return f"the file has {size[1]} x {size[0]} pixels{turned}, but its annotation says {annotated[1]} x {annotated[0]}"
