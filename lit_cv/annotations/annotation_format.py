"""The interface of an annotation format. Files of this package that define a `FORMAT` are found automatically."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from lit_cv.annotations.mask_naming import MaskOptions
from lit_cv.annotations.records import AnnotationSet, Problems
from lit_cv.annotations.sizes import SizesOf, file_sizes

__all__ = ["AnnotationFormat", "Sign", "Source", "count_masks", "split_folder"]

Sets = Mapping[str, AnnotationSet]


class Sign(IntEnum):
    """How likely a folder contains annotations of a format. `GUESS` counts only if no format is more likely."""

    NONE = 0
    GUESS = 1
    LIKELY = 2
    SURE = 3


@dataclass(frozen=True)
class Source:
    """A folder to read.

    Args:
        root: The folder.
        problems: Collects the entries that are skipped.
        files: Annotation file of each split; `None` searches for them.
        folders: Image folder of each split; `None` searches for them.
        sizes: Returns the sizes of image files.
        masks: How masks are read.
    """

    root: Path
    problems: Problems
    files: Mapping[str, Path] | None = None
    folders: Mapping[str, Path] | None = None
    sizes: SizesOf = file_sizes
    masks: MaskOptions = field(default_factory=MaskOptions)


def count_masks(sets: Sets) -> int:
    """Return the number of images with a class mask."""
    return sum(image.mask is not None for part in sets.values() for image in part.images)


def split_folder(split: str) -> Path:
    """Return the image folder to use beside written annotations: `images/SPLIT`, or `images` without splits."""
    return Path("images") if split == "all" else Path("images", split)


@dataclass(frozen=True)
class AnnotationFormat:
    """A format of annotations.

    Args:
        name: Name of the format in options.
        find: Returns how likely a folder contains such annotations.
        read: Returns a set for each of `train`, `val` and `test` found; one named `all` if there are no splits.
        write: Writes a set for each split to a folder and returns the written files; `None` for a read-only format.
        order: Breaks ties between formats that are equally likely: the lowest number is read.
        place: Returns the image folder of a split, relative to the output folder.
        per_image: Whether each image has an annotation file of the same name.
        lost: Counts what the format cannot store, by description.
        refused: Returns the class names and image file names that the format cannot store.
    """

    name: str
    find: Callable[[Path], Sign]
    read: Callable[[Source], dict[str, AnnotationSet]]
    write: Callable[[Sets, Path], list[Path]] | None = None
    order: int = 50
    place: Callable[[str], Path] = split_folder
    per_image: bool = True
    lost: Callable[[Sets], dict[str, int]] = lambda sets: {}
    refused: Callable[[Iterable[str], Iterable[str]], list[str]] = lambda classes, files: []
