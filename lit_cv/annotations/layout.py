"""Names that people give to the folders and files of a set of images."""

import re

__all__ = ["IMAGE_FOLDERS", "SPLITS", "SUFFIXES", "split_in"]

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
IMAGE_FOLDERS = ("images", "image", "img_dir", "imgs", "JPEGImages")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".JPG", ".JPEG", ".PNG")


def split_in(text: str) -> str | None:
    """Return the split that a name speaks of.

    Example:
        >>> split_in("instances_val2017"), split_in("latest")
        ('val', None)
    """
    found = re.search(r"(?<![a-z])(train|val|test)", text.lower())
    return found[1] if found else None
