"""Where the images lie that a file of annotations names."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lit_cv.annotations.clutter import is_clutter
from lit_cv.annotations.layout import IMAGE_FOLDERS, leads_out
from lit_cv.annotations.reading import is_file, spellings
from lit_cv.annotations.records import AnnotatedImage, AnnotationSet
from lit_cv.annotations.walk import is_image, subfolder
from lit_cv.errors import argument
from lit_cv.printable import printable

__all__ = ["as_on_disk", "locate_images", "report_left_out"]

log = logging.getLogger("lit_cv")

_TRIED = 5  # images that are looked for


def locate_images(root: Path, file: Path, words: Iterable[str], names: Sequence[str]) -> tuple[Path, list[str]]:
    """Find the folder of a file's images, by the first of them.

    Args:
        root: The folder of the set.
        file: The file of annotations.
        words: Names that their folder may have: of the split, or the subset.
        names: Names of the images in the file.

    Returns:
        The folder, and the names below it: those of the file; or where none of the first is there, and all are paths of
        another machine, their last parts, as Label Studio leaves them.

    Raises:
        FileNotFoundError: If none of the first images is found.
    """
    if not names:
        return root, []
    bases = [found for name in IMAGE_FOLDERS if (found := subfolder(root, name))]
    within = [found for base in (*bases, root) for word in words if (found := subfolder(base, word))]
    deeper = [found for base in within for name in IMAGE_FOLDERS if (found := subfolder(base, name))]
    folders = [file.parent, *within, *deeper, *bases, root, file.parent.parent]
    last = [PurePosixPath(name).name for name in names]
    for tried in (list(names), last if len(set(last)) == len(last) else []):
        for name in tried[:_TRIED]:
            for folder in folders:
                if not leads_out(name) and is_file(folder / _on_disk(folder, name)):
                    return folder, [_on_disk(folder, name) for name in tried]
    shown = printable(names[0], lines=False)
    raise FileNotFoundError(f"the image {shown} of {file} is not found in {root.absolute()}: set {argument('images')}.")


def report_left_out(sets: Iterable[AnnotationSet]) -> None:
    """Say which images lie beside annotated ones and have no annotations: perhaps they hold no objects.

    Args:
        sets: All sets of a folder.
    """
    parts = ((os.fspath(part.folder), part.images) for part in sets)
    known = {os.path.normpath(f"{folder}/{image.name}") for folder, images in parts for image in images}
    for place in sorted({os.path.dirname(path) for path in known}):
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        found = [name for name in names if is_image(name) and not is_clutter(name)]
        if rest := [name for name in found if os.path.join(place, name) not in known]:
            shown, first = (printable(text, lines=False) for text in (place, rest[0]))
            text = "%d of %d images in %s have no annotations and are left out: %s first."
            log.warning(text, len(rest), len(found), shown, first)


def as_on_disk(folder: Path, images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """Return images with their names as their folder has them, whose accents may be encoded in another way."""
    return [replace(image, name=_on_disk(folder, image.name)) for image in images]


def _on_disk(folder: Path, name: str) -> str:
    if name.isascii() or leads_out(name):
        return name
    return next((form for form in spellings(name) if is_file(folder / form)), name)
