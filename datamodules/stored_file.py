"""Cache files that depend on other files and are rebuilt when those change."""

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
    "mark_verified",
    "open_regular",
    "stored_file",
]

T = TypeVar("T")

log = logging.getLogger("lit_cv")

DECODER_VERSION = 2
"""Version of the pixels that `read_image` returns; increase it when they change."""

_FOLDER = ".lit_cv_cache"
_LOCK = "lock"
_FEW = 4
_verified: dict[tuple[str, int], tuple[int, ...]] = {}  # identities of files that this process wrote or checked
_refused: set[str] = set()  # folders already named in a warning


def cache_folder(root: Path) -> Path:
    """Return the cache folder, created if missing: in `root`, or in the user's cache if `root` is read-only.

    A folder that is a link, or contains a link as lock, is not used, as writes would go elsewhere.
    """
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    root_hash = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    for folder in (root / _FOLDER, user / "lit_cv" / root_hash):
        with contextlib.suppress(OSError):
            if _is_link(folder) or _is_link(folder / _LOCK):
                _warn_of_link(folder)
                continue
            lock = create_folder(folder) / _LOCK
            if os.access(folder, os.W_OK) and (not lock.exists() or os.access(lock, os.W_OK)):
                return folder
    raise PermissionError(f"neither {_shown(root)} nor {_shown(user)} is writable: set {setting('cache', False)}.")


def stored_file(
    root: Path,
    key: str,
    files: Sequence[str],
    suffix: str,
    write: Callable[[Path], None],
    flaw: Callable[[Path], str],
) -> Path:
    """Return the cache file for the current state of other files; write it first if it is missing.

    An existing file is checked once per process, and rebuilt if it is invalid.

    Args:
        root: Folder of the cache that the files are relative to.
        key: Prefix of the file's name.
        files: The files that the content depends on.
        suffix: Suffix of the file's name.
        write: Writes the file to the given path.
        flaw: Returns the problem with the file at a path, or an empty string; called for regular files.

    Raises:
        OSError: If the file cannot be written.
    """
    folder = cache_folder(root)
    file = folder / f"{key}-{_state(root, files)}{suffix}"
    before = _identity(file)
    reason = _flaw(file, flaw)
    if reason == "":
        return file
    with FileLock(folder / _LOCK) as lock:
        lock.acquire(wait=True)
        if _identity(file) not in (None, before):  # written by another rank in the meantime
            mark_verified(file)
            return file
        if reason:
            log.warning("The cache file %s is rebuilt: %s.", _shown(file), printable(reason, lines=False))
        remove_unfinished(folder)
        _write(file, write)
        mark_verified(file)
        for old in folder.glob(f"{key}-*{suffix}"):
            if old != file:
                with contextlib.suppress(OSError):
                    old.unlink()
    return file


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading; refuse links, pipes and devices, which an untrusted folder may contain.

    Raises:
        OSError: If it is one of those, or cannot be opened.
    """
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    handle = os.open(path, os.O_RDONLY | sum(flags))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{_shown(path)} is not a regular file: remove it.")
    return os.fdopen(handle, "rb")


def draw_few(file: Path, population: Sequence[T]) -> list[T]:
    """Draw a few members of a population, to verify an existing file.

    They are the same on all ranks, so that all come to the same result, and unpredictable for the creator of the file,
    as they depend on when it was stored on this disk.
    """
    state = os.stat(file)
    generator = random.Random(f"{state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}")
    return generator.sample(population, min(_FEW, len(population)))


def mark_verified(file: Path, part: int = 0) -> None:
    """Mark a file or a part of it as written or checked by this process, so that it is not checked again."""
    if (identity := _identity(file)) is not None:
        _verified[os.fspath(file), part] = identity


def verified(file: Path, part: int = 0) -> bool:
    """Return whether this process has written or checked the current state of a file or a part of it."""
    return (identity := _identity(file)) is not None and _verified.get((os.fspath(file), part)) == identity


def fingerprint(root: Path, path: str) -> list[Any]:
    """Return path, size and modification time of a file; -1 if it does not exist."""
    try:
        found = os.stat(root / path)
    except (OSError, ValueError):  # names that the system does not allow included
        return [path, -1, -1]
    return [path, found.st_size, found.st_mtime_ns]


def digest(content: Any) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]


def _state(root: Path, files: Sequence[str]) -> str:
    """Return a digest of the current state of the files, without a list in memory."""
    digest = hashlib.sha256(f"[{DECODER_VERSION}, [".encode())
    for position, file in enumerate(files):
        digest.update((", " * (position > 0) + json.dumps(fingerprint(root, file))).encode())
    digest.update(b"]]")
    return digest.hexdigest()[:20]


def _identity(file: Path) -> tuple[int, ...] | None:
    """Return the identity of a file, which changes if it is replaced; `None` if it is not a regular file."""
    try:
        found = os.lstat(file)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _flaw(file: Path, flaw: Callable[[Path], str]) -> str | None:
    """Return the problem with a file, an empty string for none, or `None` if there is no file."""
    if not os.path.lexists(file):
        return None
    if verified(file):
        return ""
    if _identity(file) is None:
        return "it is not a regular file"
    try:
        reason = flaw(file)
    except Exception as error:  # broken files raise all kinds of errors
        reason = f"it is broken ({type(error).__name__}: {str(error)[:200]})"
    if not reason:
        mark_verified(file)
    return reason


def _write(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file atomically; errors of `write`, such as unreadable images, are raised unchanged."""
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
    """Return whether a path exists but is neither a folder nor a regular file."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISDIR(mode) or stat.S_ISREG(mode))


def _warn_of_link(folder: Path) -> None:
    if os.fspath(folder) not in _refused:
        _refused.add(os.fspath(folder))
        log.warning("%s is or contains a link and is not used as a cache: remove it.", _shown(folder))


def _shown(path: Path) -> str:
    return printable(str(path), lines=False)
