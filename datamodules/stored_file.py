"""Files that keep something about other files, until those change."""

import contextlib
import hashlib
import json
import logging
import os
import random
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from lit_cv.atomic_files import atomic_write, create_folder, remove_unfinished
from lit_cv.errors import setting
from lit_cv.file_lock import FileLock
from lit_cv.printable import printable

__all__ = [
    "DECODER_VERSION",
    "cache_folder",
    "digest",
    "draw_few",
    "fingerprint",
    "open_plain",
    "proven",
    "remember",
    "stored_file",
]

T = TypeVar("T")

log = logging.getLogger("lit_cv")

DECODER_VERSION = 2
"""Raise it when `read_image` gives other pixels."""

_FOLDER = ".lit_cv_cache"
_LOCK = "lock"
_FEW = 4
_proven: dict[tuple[str, int], tuple[int, ...]] = {}  # files that this process wrote or checked, as they were then
_refused: set[str] = set()  # folders that a warning has named


def cache_folder(root: Path) -> Path:
    """Return the folder of the cache, made if it is missing: in `root`, or if that is read-only, the user's.

    A folder that is a link, or whose lock is one, is not used: what is written there would be written elsewhere.
    """
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    named = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    for folder in (root / _FOLDER, user / "lit_cv" / named):
        with contextlib.suppress(OSError):
            if _is_link(folder) or _is_link(folder / _LOCK):
                _warn_of_link(folder)
                continue
            lock = create_folder(folder) / _LOCK
            if os.access(folder, os.W_OK) and (not lock.exists() or os.access(lock, os.W_OK)):
                return folder
    raise PermissionError(
        f"neither {_shown(root)} nor {_shown(user)} can be written to: set {setting('cache', False)}."
    )


def stored_file(
    root: Path,
    which: str,
    files: Sequence[str],
    suffix: str,
    write: Callable[[Path], None],
    flaw: Callable[[Path], str],
) -> Path:
    """Return the file that keeps something about other files as they are now; make it first if it is not there.

    A file that has lain there is checked once a process, and made again if it does not hold what it should.

    Args:
        root: Folder that the files are relative to, where the cache lies.
        which: What is kept of which files: the start of the file's name.
        files: The files that it was found out from.
        suffix: End of the file's name.
        write: Writes it to the path that it is given.
        flaw: Returns what is wrong with the file at a path, an empty text for nothing; called if it is a plain file.

    Raises:
        OSError: If it cannot be written.
    """
    folder = cache_folder(root)
    file = folder / f"{which}-{_state(root, files)}{suffix}"
    before = _identity(file)
    reason = _flaw(file, flaw)
    if reason == "":
        return file
    with FileLock(folder / _LOCK) as lock:
        lock.acquire(wait=True)
        if _identity(file) not in (None, before):  # another rank has made it in the meantime
            remember(file)
            return file
        if reason:
            log.warning("The cache file %s is made again: %s.", _shown(file), printable(reason, lines=False))
        remove_unfinished(folder)
        _write(file, write)
        remember(file)
        for old in folder.glob(f"{which}-*{suffix}"):
            if old != file:
                with contextlib.suppress(OSError):
                    old.unlink()
    return file


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading that is not a link, a pipe or a device, which a stranger's folder may hold.

    Raises:
        OSError: If it is one of those, or cannot be opened.
    """
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    handle = os.open(path, os.O_RDONLY | sum(flags))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{_shown(path)} is not a plain file: remove it.")
    return os.fdopen(handle, "rb")


def draw_few(file: Path, population: Sequence[T]) -> list[T]:
    """Return a few members, to compare what a file from before says of them.

    They are the same on all ranks, which must not come to different ends, and whoever made the file could not foresee
    them: they depend on when this disk has got it.
    """
    found = os.stat(file)
    draw = random.Random(f"{found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}")
    return draw.sample(population, min(_FEW, len(population)))


def remember(file: Path, part: int = 0) -> None:
    """Note that this process has written or checked a file, or a part of it, which is not checked again as it is."""
    if (identity := _identity(file)) is not None:
        _proven[os.fspath(file), part] = identity


def proven(file: Path, part: int = 0) -> bool:
    """Return whether this process has written or checked a file, or a part of it, as it is now."""
    return (identity := _identity(file)) is not None and _proven.get((os.fspath(file), part)) == identity


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


def _identity(file: Path) -> tuple[int, ...] | None:
    """Return what tells a file from one that takes its place, `None` where there is no plain file."""
    try:
        found = os.lstat(file)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _flaw(file: Path, flaw: Callable[[Path], str]) -> str | None:
    """Return what is wrong with a file, an empty text for nothing, `None` where there is no file."""
    if not os.path.lexists(file):
        return None
    if proven(file):
        return ""
    if _identity(file) is None:
        return "it is a link, or no file"
    try:
        reason = flaw(file)
    except Exception as error:  # whatever reading a broken file raises
        reason = f"it is broken ({type(error).__name__}: {str(error)[:200]})"
    if not reason:
        remember(file)
    return reason


def _write(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file in one step; what `write` raises is raised as it is, such as the name of an unreadable image."""
    failure: Exception | None = None
    try:
        with atomic_write(file, "the cache file") as part:
            try:
                write(part)
            except Exception as error:
                failure = error
                raise
    except Exception:
        if failure is not None:
            raise failure from failure.__cause__
        raise


def _is_link(path: Path) -> bool:
    """Return whether there is something at a path that is neither a folder nor a plain file."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISDIR(mode) or stat.S_ISREG(mode))


def _warn_of_link(folder: Path) -> None:
    if os.fspath(folder) not in _refused:
        _refused.add(os.fspath(folder))
        log.warning("%s is a link or holds one, and is not used as a cache: remove it.", _shown(folder))


def _shown(path: Path) -> str:
    return printable(str(path), lines=False)
