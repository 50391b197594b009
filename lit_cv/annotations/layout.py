"""Names that people give to the folders and files of a set of images."""

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
    """Tell whether a file's name leads out of the folder that it is relative to, or is no name at all.

    Example:
        >>> leads_out("../../etc/passwd"), leads_out("/etc/passwd"), leads_out("train/a..b.jpg")
        (True, True, False)
    """
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or bool(PureWindowsPath(name).drive) or ".." in path.parts or "\0" in name


def is_text(name: str) -> bool:
    """Tell whether a name can be written as UTF-8: one that comes from a file system may not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file to be written in a folder.

    Raises:
        ValueError: If it would lie elsewhere: annotations that others have written may name any file.
    """
    if leads_out(name):
        raise ValueError(f"the name {name!r} leads out of {folder}, and nothing is written there.")
    return folder / name


def split_in(text: str) -> str | None:
    """Return the split that a name speaks of.

    Example:
        >>> split_in("instances_val2017"), split_in("dev"), split_in("latest")
        ('val', 'val', None)
    """
    found = re.search(r"(?<![a-z])(train|val|test|dev(?![a-z]))", text.lower())
    return next((split for split, names in SPLITS.items() if found[1] in names), None) if found else None


def paths_by_split(root: Path, given: str | dict[str, str] | None) -> dict[str, Path] | None:
    """Return the paths that were given for the splits, in `root` or else as they stand; one alone is for all splits.

    Raises:
        ValueError: For another split than `train`, `val` and `test`.
    """
    if given is None:
        return None
    if isinstance(given, str):
        return dict.fromkeys(("all", "train", "val", "test"), _existing(root, given))
    if unknown := sorted(set(given) - {"train", "val", "test"}):
        raise ValueError(f"{unknown[0]!r} is no split: give paths for train, val and test, or one path.")
    return {split: _existing(root, path) for split, path in given.items()}


def _existing(root: Path, path: str) -> Path:
    return root / path if (root / path).exists() or not Path(path).exists() else Path(path)


def make_folder(folder: Path, root: Path) -> None:
    """Make a folder below `root` that files are written to, and those between; `root` itself may be a link.

    Raises:
        OSError: If one of them is a link to another folder, or cannot be made.
    """
    if folder == root or not folder.is_relative_to(root):
        folder.mkdir(parents=True, exist_ok=True)
    elif folder.is_symlink() or not folder.is_dir():
        make_folder(folder.parent, root)
        create_folder(folder)
