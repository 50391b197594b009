"""What systems leave beside images: thumbnails, recycle bins, notes of file managers. Pure Python."""

__all__ = ["is_clutter"]

_NAMES = frozenset(
    ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini")
)


def is_clutter(name: str) -> bool:
    """Tell whether a file or folder is none of the user's: hidden, or of a name that systems give.

    Example:
        >>> [name for name in ("@eaDir", "._a.jpg", "Thumbs.db", ".DS_Store", "a.jpg") if not is_clutter(name)]
        ['a.jpg']
    """
    return name.startswith(".") or name.lower() in _NAMES
