"""What every annotation format is read into and written from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_cv.annotations.mask_code import MaskCode
from lit_cv.printable import printable

__all__ = ["AnnotatedImage", "AnnotatedObject", "AnnotationError", "AnnotationSet", "Problems"]

_SHOWN = 8  # problems that a message lists


class AnnotationError(ValueError):
    """Annotations that contradict themselves or their images; the message names file and entry of each."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@dataclass(slots=True)
class AnnotatedObject:
    """One object in an image.

    Args:
        category: Its class, counted from 0.
        box: Left, top, right, bottom in pixels of the image, fractions allowed: (0, 0) is the corner of the first
            pixel, so that a box over the whole image is (0, 0, width, height).
        segmentation: Its outline: polygons, each [x0, y0, x1, y1, ...] in pixels; or COCO's RLE, a dict of `size`
            (height, width) and `counts` (list or string); `None` where there is only the box.
        crowd: Whether it stands for a group of objects that were not told apart.
        score: Confidence of a prediction in [0, 1]; `None` for annotations.
        id: Its number in its file: of the annotation (COCO), the object (VOC) or the line (YOLO).
        attributes: What else the file says, as it stands (`difficult`, `truncated`, `pose`, ...).
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
        name: Path of the file below the folder of the images, with slashes.
        height: Height in pixels.
        width: Width in pixels.
        objects: Its objects.
        mask: Path of a PNG with the class of each pixel; `None` where there is none.
        id: Its number in the file.
        source: File that its annotations stand in, for messages.
        label: Class of the image as a whole; `None` where it has none.
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
        folder: Folder of the images.
        categories: Names of the objects' classes.
        images: The images.
        category_ids: Numbers of the classes in a COCO file; `None` counts them from 1.
        mask_classes: Names of the classes of masks, from 0; empty where there are none, or they have no names.
        mask_code: What the values in mask files stand for; `None` where they are the numbers of the classes.
        entry: What an object's `id` counts, for messages.
    """

    folder: Path
    categories: list[str]
    images: list[AnnotatedImage]
    category_ids: list[int] | None = None
    mask_classes: list[str] = field(default_factory=list)
    mask_code: MaskCode | None = None
    entry: str = "object"

    def chosen(self, categories: Sequence[str]) -> "AnnotationSet":
        """Return the set with the objects of these categories only, counted in this order.

        Args:
            categories: Names, each of them among the set's own.
        """
        number = {self.categories.index(name): new for new, name in enumerate(categories)}

        def keep(image: AnnotatedImage) -> AnnotatedImage:
            objects = [
                replace(item, category=number[item.category]) for item in image.objects if item.category in number
            ]
            return replace(image, objects=objects)

        ids = None if self.category_ids is None else [self.category_ids[old] for old in number]
        images = [keep(image) for image in self.images]
        return replace(self, categories=list(categories), images=images, category_ids=ids)


class Problems:
    """What is wrong with annotations, entry by entry: read everything first, then say it all at once.

    Example:
        >>> problems = Problems()
        >>> problems.add("a.xml", "object 3", "its box has no area")
        >>> len(problems), str(problems)
        (1, '  a.xml, object 3: its box has no area')
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str]] = []

    def add(self, file: object, entry: str, what: str) -> None:
        """Note a problem of an entry of a file."""
        self.entries.append((str(file), entry, what))

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        shown = (tuple(printable(text, lines=False) for text in entry) for entry in self.entries[:_SHOWN])
        lines = [f"  {file}{', ' if entry else ''}{entry}: {what}" for file, entry, what in shown]
        more = len(self.entries) - _SHOWN
        return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])

    def stop(self, hint: str = "") -> None:
        """Raise if there are any.

        Args:
            hint: What to do about them.

        Raises:
            AnnotationError: That lists the first of them.
        """
        if self.entries:
            plural = "s" if len(self.entries) > 1 else ""
            raise AnnotationError(f"{len(self.entries)} problem{plural} with the annotations{hint}:\n{self}")
