"""Listing of files: suffixes in any case; hidden files and thumbnails are skipped. Pure Python."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from lit_cv.annotations.clutter import is_clutter
from lit_cv.annotations.reading import composed
from lit_cv.image_formats import IMAGE_SUFFIXES

__all__ = ["MASK_SUFFIXES", "FolderIndex", "files_below", "images_below", "is_image", "subfolder"]

MASK_SUFFIXES = frozenset((".png", ".bmp", ".tif", ".tiff", ".gif"))
"""Lowercase suffixes of lossless image files."""


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image.

    Example:
        >>> is_image("a.b.JPG"), is_image("a.txt")
        (True, False)
    """
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def files_below(folder: Path, suffixes: Collection[str], deep: bool = True) -> Iterator[Path]:
    """Yield the files with given suffixes in a folder, sorted within each folder.

    Args:
        folder: The folder; a missing one counts as empty.
        suffixes: Lowercase suffixes with dots.
        deep: Whether to include subfolders.
    """
    for current, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if deep and not is_clutter(name))
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes and not is_clutter(name):
                yield Path(current, name)


def images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, sorted."""
    return sorted(files_below(folder, IMAGE_SUFFIXES))


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return the first existing subfolder of these names, or else one that differs only in case."""
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    wanted = [name.lower() for name in names]
    try:
        found = sorted(name for name in os.listdir(folder) if name.lower() in wanted and (folder / name).is_dir())
    except OSError:
        return None
    return folder / min(found, key=lambda name: wanted.index(name.lower())) if found else None


class FolderIndex:
    """Finds files by path without suffix, in any Unicode normal form; each folder is listed once.

    Args:
        root: Folder that the paths are relative to.
        suffixes: Lowercase suffixes of the files.
    """

    def __init__(self, root: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> None:
        self.root = root
        self._suffixes = suffixes
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def named(self, stem: Path) -> list[Path]:
        """Return the files with that path and any of the suffixes, sorted by name.

        If some match the encoding of accents exactly, only those are returned.
        """
        found = self._listed(stem.parent).get(composed(stem.name), [])
        exact = [name for name in found if os.path.splitext(name)[0] == stem.name]
        return [stem.parent / name for name in exact or found]

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            try:
                entries = sorted(os.listdir(self.root / folder))
            except (OSError, ValueError):  # the latter for names that the system does not allow
                entries = []
            for name in entries:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in self._suffixes:
                    names.setdefault(composed(stem), []).append(name)
            self._folders[folder] = names
        return self._folders[folder]
