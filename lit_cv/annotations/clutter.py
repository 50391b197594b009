"""Files that systems leave beside images: thumbnails, recycle bins, file manager data. Pure Python."""

__all__ = ["is_clutter"]

_NAMES = frozenset(
    ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini")
)


def is_clutter(name: str) -> bool:
    """Return whether a file or folder is not the user's: hidden, or named as operating systems name theirs.

    Example:
        >>> [name for name in ("@eaDir", "._a.jpg", "Thumbs.db", ".DS_Store", "a.jpg") if not is_clutter(name)]
        ['a.jpg']
    """
    return name.startswith(".") or name.lower() in _NAMES
