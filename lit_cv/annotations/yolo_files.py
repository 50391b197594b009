"""Where YOLO's layout has its images, their labels, and the names of the classes."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lit_cv.annotations.layout import IMAGE_FOLDERS, SPLITS
from lit_cv.annotations.reading import exists, head_of, is_file, name_choices, open_plain, read_lines
from lit_cv.annotations.records import AnnotationError, Problems
from lit_cv.annotations.split_folders import split_folders
from lit_cv.annotations.walk import FolderIndex, files_below, images_below, subfolder
from lit_cv.printable import printable

__all__ = ["LabelFiles", "find_yolo_file", "label_place", "yolo_images"]

log = logging.getLogger("lit_cv")

_NAMES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels")
_NAMES_KEY = re.compile(rb"names[\"']?\s*:")
_TEXT = (".txt",)
_HEAD = 1 << 20  # bytes of a YAML file that name the classes, if it is of YOLO's
_SWAPPED = frozenset(name.lower() for name in IMAGE_FOLDERS)


def find_yolo_file(root: Path) -> Path | None:
    """Return the file that names the classes (`data.yaml` or another YAML file with `names`, `classes.txt`)."""
    yamls = sorted([*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda path: path.stem != "data")
    named = [path for path in yamls if is_file(path) and _NAMES_KEY.search(head_of(path, _HEAD))]
    folders = [root, *(found for name in ("labels", *SPLITS["train"]) if (found := subfolder(root, name)))]
    texts = [folder / name for folder in folders for name in _NAMES]
    return next((path for path in [*named, *texts] if path.is_file()), None)


def yolo_images(root: Path, content: Mapping[str, Any]) -> dict[str, tuple[Path, list[str]]]:
    """Return folder and names of the images of each split.

    Args:
        root: The folder of the set.
        content: Its YAML file.

    Raises:
        FileNotFoundError: If there are no images, or the file names a folder that does not exist.
        AnnotationError: If the file names no folders.
    """
    noted = content.get("path")
    base = root / noted if isinstance(noted, str) and "\0" not in noted else root
    base = base if exists(base) and base.is_dir() else root  # the path of the machine that wrote it
    found: dict[str, tuple[Path, list[str]]] = {}
    for split, names in {**SPLITS, "all": ("all",)}.items():
        given: Any = next((content[name] for name in names if content.get(name)), [])
        places = [given] if isinstance(given, str) else given
        if not isinstance(places, list) or not all(isinstance(place, str) and "\0" not in place for place in places):
            raise AnnotationError(f"{root.absolute()}: {split} in the YAML file must be a folder or a list of some.")
        listed = [_listed(root, base, place) for place in places]
        if any(paths for _, paths in listed):
            found[split] = _joined(listed)
    if "all" not in found:
        merged = {**_by_folder(root, alone=not found), **found}
        found = {split: merged[split] for split in SPLITS if split in merged}
    if "train" in found:
        found.pop("all", None)
    else:
        found = {"all": found["all"] if "all" in found else _in_folder(subfolder(root, *IMAGE_FOLDERS) or root)}
    if not any(paths for _, paths in found.values()):
        raise FileNotFoundError(f"{root.absolute()} holds no images in the folders that YOLO's layout has.")
    return found


def _by_folder(root: Path, alone: bool) -> dict[str, tuple[Path, list[str]]]:
    """Return the images of folders that are named for splits: `images/train`, `train2017/images` or `train`.

    Args:
        root: The folder of the set.
        alone: Whether these are all images, so that others beside them are worth a warning.
    """
    images = subfolder(root, *IMAGE_FOLDERS)
    found = {}
    inner, outer = split_folders(images) if images is not None else {}, split_folders(root)
    for split in SPLITS:
        below, above = inner.get(split), outer.get(split)
        place = below or (above and (subfolder(above, *IMAGE_FOLDERS) or above))
        if place is not None and (paths := _in_folder(place))[1]:
            found[split] = paths
    if alone and images is not None and "train" in found:
        placed = {folder / name for folder, names in found.values() for name in names}
        if rest := [path for path in images_below(images) if path not in placed]:
            shown = printable(str(rest[0]), lines=False)
            log.warning("%d images lie in no folder of a split and are left out: %s first.", len(rest), shown)
    return found


def _listed(root: Path, base: Path, place: str) -> tuple[Path, list[str]]:
    place = place if exists(base / place) or exists(root / place) else place.replace("\\", "/")
    candidates = [base / place, root / place, root / place.removeprefix("../")]
    path = next((candidate for candidate in candidates if exists(candidate)), None)
    path = path or _in_another_case(base, place) or _in_another_case(root, place.removeprefix("../"))
    if path is None:
        raise FileNotFoundError(f"{base / place}, which the YAML file names, does not exist.")
    if path.is_dir():
        return _in_folder(path)
    return _below([_listed_image(line, base, path.parent) for line in read_lines(path, files=True)])


def _in_another_case(folder: Path, place: str) -> Path | None:
    found: Path | None = folder
    for part in PurePosixPath(place).parts:
        found = subfolder(found, part) if found is not None else None
    return found


def _listed_image(line: str, base: Path, beside: Path) -> Path:
    choices = [folder / name for name in name_choices(line) for folder in (base, beside)]
    return next((choice for choice in choices if exists(choice)), beside / line.strip())


def _in_folder(folder: Path) -> tuple[Path, list[str]]:
    return folder, [path.relative_to(folder).as_posix() for path in images_below(folder)]


def _joined(listed: Sequence[tuple[Path, list[str]]]) -> tuple[Path, list[str]]:
    if len(listed) == 1:
        return listed[0]
    return _below([folder / name for folder, names in listed for name in names])


def _below(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """Return the deepest folder above all the paths, and the paths below it."""
    if not paths:
        return Path(), []
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        if folder.parent == folder:
            raise AnnotationError(f"{paths[0]} and the other images of the list have no folder in common.")
        folder = folder.parent
    return folder, [path.relative_to(folder).as_posix() for path in paths]


def label_place(image: Path) -> Path:
    """Return the text file that readers of YOLO's files take for an image's: its last folder `images` is `labels`.

    Example:
        >>> label_place(Path("images/train/a.jpg")).as_posix()
        'labels/train/a.txt'
    """
    parts = list(image.with_suffix(".txt").parts)
    where = [position for position, part in enumerate(parts[:-1]) if part == "images"]
    if where:
        parts[where[-1]] = "labels"
    return Path(*parts)


class LabelFiles:
    """Finds the text files of images: with a folder `images` of their path named `labels`, or beside them.

    Only folders below the root are renamed, for an image that lies there; the last one goes first.

    Args:
        root: The folder of the set.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index = FolderIndex(root, _TEXT)
        self._folders: dict[Path, Path] = {}

    def of(self, image: Path) -> Path:
        """Return the text file of an image: the first that there is, otherwise the first that there could be."""
        places = [*(labels / image.relative_to(images) for labels, images in self._pairs(image)), image]
        found = (files[0] for place in places if (files := self._index.named(place.with_suffix(""))))
        return next(found, places[0].with_suffix(".txt"))

    def check(self, images: Iterable[Path], problems: Problems) -> None:
        """Note the text files that belong to no image: an image that is lost would be missed by nothing else."""
        images = list(images)
        used = {self.of(image) for image in images}
        folders = {image.parent: image for image in images}
        pairs: dict[Path, Path] = {}
        for folder, image in folders.items():
            for labels, of in self._pairs(image):
                whole = labels.is_relative_to(self._root)  # elsewhere lie labels of other sets
                pairs.update({labels: of} if whole else {labels / folder.relative_to(of): folder})
        present = FolderIndex(self._root)
        for labels, of in pairs.items():
            for path in files_below(labels, _TEXT):
                image = of / path.relative_to(labels).with_suffix("")
                if path not in used and path.name not in _NAMES and not present.named(image):
                    problems.add(path, "", f"there is no image of that name in {of}")
        for folder in folders:
            for path in files_below(folder, _TEXT, deep=False):
                known = path in used or path.name in _NAMES or folder in pairs
                if not known and not present.named(path.with_suffix("")) and _looks_like_labels(path):
                    problems.add(path, "", f"there is no image of that name in {folder}")

    def _pairs(self, image: Path) -> Iterator[tuple[Path, Path]]:
        """Yield folders of labels, and the folders of images whose places they have, the innermost first."""
        base = self._root if image.is_relative_to(self._root) else Path(image.anchor)
        parts = image.relative_to(base).parts
        for position in range(len(parts) - 2, -1, -1):
            if parts[position].lower() in _SWAPPED:
                images = base.joinpath(*parts[: position + 1])
                if images not in self._folders:
                    self._folders[images] = subfolder(images.parent, "labels") or images.parent / "labels"
                yield self._folders[images], images


def _looks_like_labels(path: Path) -> bool:
    try:
        with open_plain(path) as file:
            words = file.readline(_HEAD).split()
        return len([float(word) for word in words]) >= 5
    except (OSError, ValueError):
        return False
