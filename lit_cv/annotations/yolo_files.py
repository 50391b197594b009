"""Location of images, labels and class names in YOLO's layout."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lit_cv.annotations.layout import IMAGE_FOLDERS, SPLITS
from lit_cv.annotations.reading import exists, is_file, name_choices, open_plain, read_head, read_lines
from lit_cv.annotations.records import AnnotationError, Problems
from lit_cv.annotations.split_folders import split_folders
from lit_cv.annotations.walk import FolderIndex, files_below, images_below, subfolder
from lit_cv.printable import printable

__all__ = ["LabelFiles", "find_yolo_file", "label_path", "yolo_images"]

log = logging.getLogger("lit_cv")

_NAMES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels")
_NAMES_KEY = re.compile(rb"names[\"']?\s*:")
_TEXT = (".txt",)
_HEAD = 1 << 20  # bytes at the start of YOLO's YAML file that contain the class names
_IMAGE_FOLDERS = frozenset(name.lower() for name in IMAGE_FOLDERS)


def find_yolo_file(root: Path) -> Path | None:
    """Return the file of the class names: `data.yaml`, another YAML file with `names`, or `classes.txt`."""
    yamls = sorted([*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda path: path.stem != "data")
    named = [path for path in yamls if is_file(path) and _NAMES_KEY.search(read_head(path, _HEAD))]
    folders = [root, *(found for name in ("labels", *SPLITS["train"]) if (found := subfolder(root, name)))]
    texts = [folder / name for folder in folders for name in _NAMES]
    return next((path for path in [*named, *texts] if path.is_file()), None)


def yolo_images(root: Path, content: Mapping[str, Any]) -> dict[str, tuple[Path, list[str]]]:
    """Return the folder and the image names of each split.

    Args:
        root: The folder of the set.
        content: Content of its YAML file.

    Raises:
        FileNotFoundError: If there are no images, or the YAML file names a missing folder.
        AnnotationError: If an entry of the YAML file is not a folder.
    """
    base_path = content.get("path")
    base = root / base_path if isinstance(base_path, str) and "\0" not in base_path else root
    base = base if exists(base) and base.is_dir() else root  # a path of another machine
    found: dict[str, tuple[Path, list[str]]] = {}
    for split, names in {**SPLITS, "all": ("all",)}.items():
        entry: Any = next((content[name] for name in names if content.get(name)), [])
        places = [entry] if isinstance(entry, str) else entry
        if not isinstance(places, list) or not all(isinstance(place, str) and "\0" not in place for place in places):
            raise AnnotationError(f"{root.absolute()}: {split} in the YAML file must be a folder or a list of folders.")
        listed = [_listed(root, base, place) for place in places]
        if any(paths for _, paths in listed):
            found[split] = _joined(listed)
    if "all" not in found:
        merged = {**_by_folder(root, warn=not found), **found}
        found = {split: merged[split] for split in SPLITS if split in merged}
    if "train" in found:
        found.pop("all", None)
    else:
        found = {"all": found["all"] if "all" in found else _in_folder(subfolder(root, *IMAGE_FOLDERS) or root)}
    if not any(paths for _, paths in found.values()):
        raise FileNotFoundError(f"{root.absolute()} contains no images in the folders of YOLO's layout.")
    return found


def _by_folder(root: Path, warn: bool) -> dict[str, tuple[Path, list[str]]]:
    """Return the images in folders named after splits: `images/train`, `train2017/images` or `train`.

    Args:
        root: The folder of the set.
        warn: Whether to warn about images outside these folders.
    """
    images = subfolder(root, *IMAGE_FOLDERS)
    found = {}
    inner, outer = split_folders(images) if images is not None else {}, split_folders(root)
    for split in SPLITS:
        below, above = inner.get(split), outer.get(split)
        place = below or (above and (subfolder(above, *IMAGE_FOLDERS) or above))
        if place is not None and (paths := _in_folder(place))[1]:
            found[split] = paths
    if warn and images is not None and "train" in found:
        placed = {folder / name for folder, names in found.values() for name in names}
        if skipped := [path for path in images_below(images) if path not in placed]:
            shown = printable(str(skipped[0]), lines=False)
            log.warning("%d images are in no folder of a split and are skipped, starting with %s.", len(skipped), shown)
    return found


def _listed(root: Path, base: Path, place: str) -> tuple[Path, list[str]]:
    place = place if exists(base / place) or exists(root / place) else place.replace("\\", "/")
    candidates = [base / place, root / place, root / place.removeprefix("../")]
    path = next((candidate for candidate in candidates if exists(candidate)), None)
    path = path or _in_another_case(base, place) or _in_another_case(root, place.removeprefix("../"))
    if path is None:
        raise FileNotFoundError(f"{base / place} in the YAML file does not exist.")
    if path.is_dir():
        return _in_folder(path)
    return _below([_listed_image(line, base, path.parent) for line in read_lines(path, files=True)])


def _in_another_case(folder: Path, place: str) -> Path | None:
    found: Path | None = folder
    for part in PurePosixPath(place).parts:
        found = subfolder(found, part) if found is not None else None
    return found


def _listed_image(line: str, base: Path, list_folder: Path) -> Path:
    choices = [folder / name for name in name_choices(line) for folder in (base, list_folder)]
    return next((choice for choice in choices if exists(choice)), list_folder / line.strip())


def _in_folder(folder: Path) -> tuple[Path, list[str]]:
    return folder, [path.relative_to(folder).as_posix() for path in images_below(folder)]


def _joined(listed: Sequence[tuple[Path, list[str]]]) -> tuple[Path, list[str]]:
    if len(listed) == 1:
        return listed[0]
    return _below([folder / name for folder, names in listed for name in names])


def _below(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """Return the deepest common folder of the paths, and the paths relative to it."""
    if not paths:
        return Path(), []
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        if folder.parent == folder:
            raise AnnotationError(f"{paths[0]} and the other images of the list have no folder in common.")
        folder = folder.parent
    return folder, [path.relative_to(folder).as_posix() for path in paths]


def label_path(image: Path) -> Path:
    """Return the label file that YOLO readers expect for an image: its last folder `images` becomes `labels`.

    Example:
        >>> label_path(Path("images/train/a.jpg")).as_posix()
        'labels/train/a.txt'
    """
    parts = list(image.with_suffix(".txt").parts)
    positions = [position for position, part in enumerate(parts[:-1]) if part == "images"]
    if positions:
        parts[positions[-1]] = "labels"
    return Path(*parts)


class LabelFiles:
    """Finds the label files of images: in a folder `labels` that replaces `images` in the path, or beside them.

    For images below the root, only folders below the root are replaced. The innermost folder is tried first.

    Args:
        root: The folder of the set.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index = FolderIndex(root, _TEXT)
        self._folders: dict[Path, Path] = {}

    def of(self, image: Path) -> Path:
        """Return the label file of an image: the first that exists, otherwise the first candidate."""
        places = [*(labels / image.relative_to(images) for labels, images in self._pairs(image)), image]
        found = (files[0] for place in places if (files := self._index.named(place.with_suffix(""))))
        return next(found, places[0].with_suffix(".txt"))

    def check(self, images: Iterable[Path], problems: Problems) -> None:
        """Add label files without an image to `problems`, since nothing else would reveal a lost image."""
        images = list(images)
        used = {self.of(image) for image in images}
        folders = {image.parent: image for image in images}
        pairs: dict[Path, Path] = {}
        for folder, image in folders.items():
            for labels, of in self._pairs(image):
                inside_root = labels.is_relative_to(self._root)  # other sets may have labels outside
                pairs.update({labels: of} if inside_root else {labels / folder.relative_to(of): folder})
        present = FolderIndex(self._root)
        for labels, of in pairs.items():
            for path in files_below(labels, _TEXT):
                image = of / path.relative_to(labels).with_suffix("")
                if path not in used and path.name not in _NAMES and not present.named(image):
                    problems.add(path, "", f"there is no image of that name in {of}")
        for folder in folders:
            for path in files_below(folder, _TEXT, deep=False):
                expected = path in used or path.name in _NAMES or folder in pairs
                if not expected and not present.named(path.with_suffix("")) and _looks_like_labels(path):
                    problems.add(path, "", f"there is no image of that name in {folder}")

    def _pairs(self, image: Path) -> Iterator[tuple[Path, Path]]:
        """Yield label folders with the image folders that they replace, the innermost first."""
        base = self._root if image.is_relative_to(self._root) else Path(image.anchor)
        parts = image.relative_to(base).parts
        for position in range(len(parts) - 2, -1, -1):
            if parts[position].lower() in _IMAGE_FOLDERS:
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
