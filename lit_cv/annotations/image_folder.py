"""Location of the images that an annotation file names."""

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

_TRIED = 5  # images to search for


def locate_images(root: Path, file: Path, words: Iterable[str], names: Sequence[str]) -> tuple[Path, list[str]]:
    """Find the image folder of an annotation file by its first images.

    Args:
        root: The folder of the set.
        file: The annotation file.
        words: Possible names of the folder: the split or the subset.
        names: Names of the images in the file.

    Returns:
        The folder, and image names relative to it: those of the file, or only their last parts if the file has paths
        of another machine, as Label Studio writes them.

    Raises:
        FileNotFoundError: If none of the first images exists.
    """
    if not names:
        return root, []
    bases = [found for name in IMAGE_FOLDERS if (found := subfolder(root, name))]
    by_word = [found for base in (*bases, root) for word in words if (found := subfolder(base, word))]
    nested = [found for base in by_word for name in IMAGE_FOLDERS if (found := subfolder(base, name))]
    folders = [file.parent, *by_word, *nested, *bases, root, file.parent.parent]
    last_parts = [PurePosixPath(name).name for name in names]
    for candidates in (list(names), last_parts if len(set(last_parts)) == len(last_parts) else []):
        for name in candidates[:_TRIED]:
            for folder in folders:
                if not leads_out(name) and is_file(folder / _on_disk(folder, name)):
                    return folder, [_on_disk(folder, name) for name in candidates]
    shown = printable(names[0], lines=False)
    raise FileNotFoundError(f"image {shown} of {file} not found in {root.absolute()}: set {argument('images')}.")


def report_left_out(sets: Iterable[AnnotationSet]) -> None:
    """Warn about images without annotations in the folders of annotated ones: they may contain no objects.

    Args:
        sets: All sets of a folder.
    """
    parts = ((os.fspath(part.folder), part.images) for part in sets)
    annotated = {os.path.normpath(f"{folder}/{image.name}") for folder, images in parts for image in images}
    for folder in sorted({os.path.dirname(path) for path in annotated}):
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        image_names = [name for name in names if is_image(name) and not is_clutter(name)]
        if skipped := [name for name in image_names if os.path.join(folder, name) not in annotated]:
            shown, first = (printable(text, lines=False) for text in (folder, skipped[0]))
            text = "%d of %d images in %s have no annotations and are skipped, starting with %s."
            log.warning(text, len(skipped), len(image_names), shown, first)


def as_on_disk(folder: Path, images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """Return images with their names as the folder spells them, since accents may be encoded differently."""
    return [replace(image, name=_on_disk(folder, image.name)) for image in images]


def _on_disk(folder: Path, name: str) -> str:
    if name.isascii() or leads_out(name):
        return name
    return next((form for form in spellings(name) if is_file(folder / form)), name)
