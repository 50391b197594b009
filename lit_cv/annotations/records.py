"""Data classes that every annotation format is read into and written from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_cv.annotations.mask_code import MaskCode
from lit_cv.printable import printable

__all__ = ["AnnotatedImage", "AnnotatedObject", "AnnotationError", "AnnotationSet", "Problems"]

_SHOWN = 8  # problems listed in a message


class AnnotationError(ValueError):
    """Annotations are invalid, or do not match their images; the message names file and entry of each."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@dataclass(slots=True)
class AnnotatedObject:
    """One object in an image.

    Args:
        category: Class index.
        box: Left, top, right, bottom in pixels, fractions allowed: (0, 0) is the corner of the first pixel, so that a
            box over the entire image is (0, 0, width, height).
        segmentation: Outline: polygons, each [x0, y0, x1, y1, ...] in pixels; or COCO RLE, a dict of `size` (height,
            width) and `counts` (list or string); `None` if there is only the box.
        crowd: Whether it is a group of objects that are not separated.
        score: Confidence of a prediction in [0, 1]; `None` for annotations.
        id: Number in the file: of the annotation (COCO), the object (VOC) or the line (YOLO).
        attributes: Other values of the file, unchanged (`difficult`, `truncated`, `pose`, ...).
    """

    category: int
    box: tuple[float, float, float, float]
    segmentation: list[list[float]] | dict[str, Any] | None = None
    crowd: bool = False
    score: float | None = None
    id: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class AnnotatedImage:
    """An image with its objects.

    Args:
        name: Path relative to the image folder, with slashes.
        height: Height in pixels.
        width: Width in pixels.
        objects: Its objects.
        mask: Path of a PNG with the class of each pixel, or `None`.
        id: Number in the file.
        source: File of the annotations, for messages.
        label: Image-level class, or `None`.
    """

    name: str
    height: int
    width: int
    objects: list[AnnotatedObject] = field(default_factory=list)
    mask: Path | None = None
    id: int | None = None
    source: Path | None = None
    label: str | None = None


@dataclass
class AnnotationSet:
    """Images of a split with their objects.

    Args:
        folder: Image folder.
        categories: Class names of the objects.
        images: The images.
        category_ids: Ids of the classes in a COCO file; `None` numbers them from 1.
        mask_classes: Class names of mask values from 0; empty if there are no masks or no names.
        mask_code: Meaning of the values in mask files; `None` if they are class numbers.
        entry: Name of what an object's `id` numbers, for messages.
    """

    folder: Path
    categories: list[str]
    images: list[AnnotatedImage]
    category_ids: list[int] | None = None
    mask_classes: list[str] = field(default_factory=list)
    mask_code: MaskCode | None = None
    entry: str = "object"

    def chosen(self, categories: Sequence[str]) -> "AnnotationSet":
        """Return the set with only the objects of some categories, renumbered in the given order.

        Args:
            categories: Names of categories of the set.
        """
        number = {self.categories.index(name): new for new, name in enumerate(categories)}

        def filtered(image: AnnotatedImage) -> AnnotatedImage:
            objects = [
                replace(item, category=number[item.category]) for item in image.objects if item.category in number
            ]
            return replace(image, objects=objects)

        ids = None if self.category_ids is None else [self.category_ids[old] for old in number]
        images = [filtered(image) for image in self.images]
        return replace(self, categories=list(categories), images=images, category_ids=ids)


class Problems:
    """Collects the problems of annotations, so that all are reported at once after reading.

    Example:
        >>> problems = Problems()
        >>> problems.add("a.xml", "object 3", "its box has no area")
        >>> len(problems), str(problems)
        (1, '  a.xml, object 3: its box has no area')
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str]] = []

    def add(self, file: object, entry: str, problem: str) -> None:
        """Add a problem of an entry in a file."""
        self.entries.append((str(file), entry, problem))

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        shown = (tuple(printable(text, lines=False) for text in entry) for entry in self.entries[:_SHOWN])
        lines = [f"  {file}{', ' if entry else ''}{entry}: {problem}" for file, entry, problem in shown]
        more = len(self.entries) - _SHOWN
        return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])

    def stop(self, hint: str = "") -> None:
        """Raise if there are problems.

        Args:
            hint: How to handle them.

        Raises:
            AnnotationError: Listing the first of them.
        """
        if self.entries:
            plural = "s" if len(self.entries) > 1 else ""
            raise AnnotationError(f"{len(self.entries)} problem{plural} with the annotations{hint}:\n{self}")
