"""Common names of the folders and files of an image set."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from lit_cv.atomic_files import create_folder

__all__ = ["IMAGE_FOLDERS", "SPLITS", "inside", "is_text", "leads_out", "make_folder", "paths_by_split", "split_in"]

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}
IMAGE_FOLDERS = ("images", "image", "img_dir", "imgs", "JPEGImages")


def leads_out(name: str) -> bool:
    """Return whether a file name points outside the folder that it is relative to, or is invalid.

    Example:
        >>> leads_out("../../etc/passwd"), leads_out("/etc/passwd"), leads_out("train/a..b.jpg")
        (True, True, False)
    """
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or bool(PureWindowsPath(name).drive) or ".." in path.parts or "\0" in name


def is_text(name: str) -> bool:
    """Return whether a name can be encoded as UTF-8; names from a file system may not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def inside(folder: Path, name: str) -> Path:
    """Return the path for writing a file in a folder.

    Raises:
        ValueError: If the path is outside the folder, since untrusted annotations may name any file.
    """
    if leads_out(name):
        raise ValueError(f"the name {name!r} points outside {folder}: nothing is written there.")
    return folder / name


def split_in(text: str) -> str | None:
    """Return the split that a name contains, or `None`.

    Example:
        >>> split_in("instances_val2017"), split_in("dev"), split_in("latest")
        ('val', 'val', None)
    """
    match = re.search(r"(?<![a-z])(train|val|test|dev(?![a-z]))", text.lower())
    return next((split for split, names in SPLITS.items() if match[1] in names), None) if match else None


def paths_by_split(root: Path, paths: str | dict[str, str] | None) -> dict[str, Path] | None:
    """Return a path for each split, relative to `root` if it exists there; a single path is used for all splits.

    Raises:
        ValueError: If a split is not `train`, `val` or `test`.
    """
    if paths is None:
        return None
    if isinstance(paths, str):
        return dict.fromkeys(("all", "train", "val", "test"), _existing(root, paths))
    if unknown := sorted(set(paths) - {"train", "val", "test"}):
        raise ValueError(f"{unknown[0]!r} is not a split: give paths for train, val and test, or one path.")
    return {split: _existing(root, path) for split, path in paths.items()}


def _existing(root: Path, path: str) -> Path:
    return root / path if (root / path).exists() or not Path(path).exists() else Path(path)


def make_folder(folder: Path, root: Path) -> None:
    """Create a folder below `root` with its parents; only `root` itself may be a link.

    Raises:
        OSError: If one of them is a link to another folder, or cannot be created.
    """
    if folder == root or not folder.is_relative_to(root):
        folder.mkdir(parents=True, exist_ok=True)
    elif folder.is_symlink() or not folder.is_dir():
        make_folder(folder.parent, root)
        create_folder(folder)
