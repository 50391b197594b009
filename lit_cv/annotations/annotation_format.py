"""What a format of annotations is to the rest: a file of this package that defines one as `FORMAT` is found there."""

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
    """How likely a folder holds annotations of a format; a guess counts where nothing else is there."""

    NONE = 0
    GUESS = 1
    LIKELY = 2
    SURE = 3


@dataclass(frozen=True)
class Source:
    """A folder to read.

    Args:
        root: The folder.
        problems: Where entries that are left out are noted.
        files: Annotation file of each split; `None` looks for them.
        folders: Folder of the images of each split; `None` looks for them.
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
    """Return where images belong beside annotations that are written: `images/SPLIT`, `images` without splits."""
    return Path("images") if split == "all" else Path("images", split)


@dataclass(frozen=True)
class AnnotationFormat:
    """A format of annotations.

    Args:
        name: Its name, which options take.
        find: Returns how likely a folder holds such annotations.
        read: Returns a set for each of `train`, `val` and `test` that is there; `all` where there are no splits.
        write: Writes a set for each split to a folder, and returns the files written; `None` for a format that is read
            alone.
        order: Of formats that are found with equal certainty that of the lowest number is read.
        place: Returns the folder, below the one written to, that the images of a split belong in.
        per_image: Whether each image has a file of annotations, named like it.
        lost: Returns what the format has no place for in sets, and how many of each.
        refused: Returns the names, of classes and of image files, that it has no way to write.
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
