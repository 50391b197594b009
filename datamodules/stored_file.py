"""Files that keep something about other files, until those change."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["DECODER_VERSION", "cache_folder", "digest", "fingerprint", "stored_file"]

DECODER_VERSION = 1
"""Raise it when `read_image` gives other pixels."""

_FOLDER = ".lit_cv_cache"


def cache_folder(root: Path) -> Path:
    """Return the folder of the cache, made if it is missing: in `root`, or if that is read-only, the user's."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    named = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    for folder in (root / _FOLDER, user / "lit_cv" / named):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise PermissionError(f"neither {root} nor {user} can be written to: set --data.cache false.")


def stored_file(root: Path, which: str, files: Sequence[str], suffix: str, write: Callable[[Path], None]) -> Path:
    """Return the file that keeps something about other files as they are now; make it first if it is not there.

    Args:
        root: Folder that the files are relative to, where the cache lies.
        which: What is kept of which files: the start of the file's name.
        files: The files that it was found out from.
        suffix: End of the file's name.
        write: Writes it to the path that it is given.
    """
    folder = cache_folder(root)
    file = folder / f"{which}-{_state(root, files)}{suffix}"
    if file.is_file():
        return file
    with _lock(folder / "lock") as alone:
        if file.is_file():
            return file
        for interrupted in folder.glob(f".{which}-*") if alone else ():
            interrupted.unlink(missing_ok=True)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            write(unfinished)
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)
        for old in folder.glob(f"{which}-*{suffix}"):
            if old != file:
                with contextlib.suppress(OSError):
                    old.unlink()
    return file


def fingerprint(root: Path, path: str) -> list[Any]:
    """Return path, size and time of change of a file; -1 where there is none."""
    try:
        found = os.stat(root / path)
    except (OSError, ValueError):  # also a name that the system has no place for
        return [path, -1, -1]
    return [path, found.st_size, found.st_mtime_ns]


def digest(content: Any) -> str:
    """Return a short name for a content that JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]


def _state(root: Path, files: Sequence[str]) -> str:
    """Return a digest of the files as they are now, without a list of what is known of each."""
    digest = hashlib.sha256(f"[{DECODER_VERSION}, [".encode())
    for position, file in enumerate(files):
        digest.update((", " * (position > 0) + json.dumps(fingerprint(root, file))).encode())
    digest.update(b"]]")
    return digest.hexdigest()[:20]


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[bool]:
    """Hold a lock that ends with the process, and tell whether there is one: not every system has them."""
    with open(file, "w", encoding="utf-8") as handle:
        locked = False
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
        yield locked
