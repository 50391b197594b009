"""The one way to write a file: atomically, and never through a link. Pure Python.

A file is written under an unpredictable name in the same folder, forced to disk and renamed. A link at the target path
is replaced, never followed; a file that must be written in place is refused if it is a link.
"""

import contextlib
import errno
import itertools
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lit_cv.errors import TRAINER, argument
from lit_cv.file_lock import FileLock

__all__ = [
    "atomic_write",
    "create_folder",
    "describe_path",
    "next_free_path",
    "open_for_update",
    "remove_unfinished",
    "write_error",
    "write_text",
]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_SUFFIX = ".part"
_LONGEST = 200  # bytes of the file name; the name of the unfinished file is longer
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.part(\.\w+)?", re.DOTALL)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def atomic_write(path: Path, what: str, sync: bool = True, suffix: str = _SUFFIX) -> Iterator[Path]:
    """Yield a new, empty file beside `path`, which replaces `path` in one step if the block succeeds.

    Args:
        path: The file to write; its folder must exist.
        what: What the file is, for messages.
        sync: Whether to force the content to disk before the file appears, so that a power cut cannot leave it empty.
        suffix: End of the name of the unfinished file, for writers that infer the format from it.

    Raises:
        OSError: If it cannot be written; an existing file stays unchanged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> with atomic_write(path, "the table") as part: _ = part.write_text("1,2")
        >>> path.read_text()
        '1,2'
    """
    name = path.name.encode("utf-8", "surrogateescape")[:_LONGEST].decode("utf-8", "ignore")
    part = path.with_name(f".{name}.{secrets.token_hex(8)}{suffix}")
    lock = FileLock(part)
    try:
        lock.create()
        yield part
        if sync:
            _sync(part)
        os.replace(part, path)
        if sync:
            with contextlib.suppress(OSError):  # some file systems cannot sync a folder
                _sync(path.parent)
    except Exception as error:
        if (cause := _system_error(error)) is not None:
            raise write_error(cause, what, path) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # it would hide the first error
            part.unlink(missing_ok=True)
        lock.release()


def write_text(path: Path, text: str, what: str, sync: bool = True) -> None:
    """Write a text file atomically, in UTF-8; file names in it that are not UTF-8 keep their bytes.

    Args:
        path: The file; its folder must exist.
        text: The text; its line ends are not converted.
        what: What the file is, for messages.
        sync: As for `atomic_write`.

    Raises:
        OSError: If it cannot be written; an existing file stays unchanged.
    """
    with atomic_write(path, what, sync) as part:
        part.write_bytes(text.encode("utf-8", "surrogateescape"))


def open_for_update(path: Path) -> IO[bytes]:
    """Open a file for reading and writing in place, at any position; create it if it is missing.

    Raises:
        OSError: If it is a link, or not a regular file: nothing is written then.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link(path) from None
        raise
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(handle)
        raise _is_link(path)
    return os.fdopen(handle, "r+b")


def create_folder(path: Path) -> Path:
    """Create a folder for files of this project unless it exists, and return it.

    Raises:
        OSError: If it cannot be created, or is a link to another folder: nothing is written there then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    if path.is_symlink():
        raise _is_link(path)
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, f"{path} is a file, but a folder is needed here: move it away")
    return path


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed writers from a folder; files that are being written now stay."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not (_UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
                continue
            lock = FileLock(Path(entry.path))
            with contextlib.suppress(OSError):
                if lock.acquire() and lock.enforced:  # without a lock, another process may be writing it
                    os.unlink(entry.path)
            lock.release()


def next_free_path(path: Path) -> Path:
    """Return `path` if nothing exists there, else the first numbered path that is free (`table_1.csv`).

    A file that a user may have edited is never overwritten.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> path.touch()
        >>> next_free_path(path).name
        'table_1.csv'
    """
    numbered = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(1))
    return next(candidate for candidate in itertools.chain([path], numbered) if not os.path.lexists(candidate))


def describe_path(path: Path, wanted: Path) -> str:
    """Return the text for a path that `next_free_path` chose in place of `wanted`, with the reason if they differ."""
    return str(path) if path == wanted else f"{path} ({wanted.name} exists and was not overwritten)"


def write_error(error: OSError, what: str, path: Path) -> OSError:
    """Return an error with the same errno whose message names the file and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    folder = argument("default_root_dir", TRAINER)
    if error.errno in _FULL:
        hint = f"free some space, or write to another folder ({folder})"
    elif error.errno in _CLOSED:
        hint = f"choose a writable folder ({folder})"
    else:
        hint = f"check its disk, or write to another folder ({folder})"
    kept = ", the previous file is intact" if path.exists() else ""
    return type(error)(error.errno or errno.EIO, f"{what} {path} could not be written ({reason}){kept}: {hint}.")


def _is_link(path: Path) -> OSError:
    return OSError(
        errno.ELOOP, f"{path} is a link (symbolic or hard), and lit_cv does not write through links: move it away, or "
        "replace it by a copy of its target"
    )  # fmt: skip


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the OSError behind an exception: torch's file writer raises its own error over it."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
