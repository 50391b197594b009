"""The one way to write a file: whole or not at all, and through no link. Pure Python.

A file is written under an unpredictable name beside its place, forced to disk and renamed. A link that lies at its
place is replaced, never followed; a file that must be written where it lies is refused if it is a link.
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
_LONGEST = 200  # bytes of a name that leave room for those of an unfinished file
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.part(\.\w+)?", re.DOTALL)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def atomic_write(path: Path, what: str, sync: bool = True, suffix: str = _SUFFIX) -> Iterator[Path]:
    """Give a new, empty file beside `path` to write to, which takes its place in one step if nothing goes wrong.

    Args:
        path: The file that is to be written; its folder must be there.
        what: What it is, for the message.
        sync: Whether the content is on the disk before the file appears, so that a power cut does not leave it empty.
        suffix: End of the name of the unfinished file, for writers that look at it.

    Raises:
        OSError: If it cannot be written; what was there before stays.

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
            with contextlib.suppress(OSError):  # not every file system has it
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
    """Write a text file in one step, in UTF-8; file names that are no UTF-8 keep their bytes.

    Args:
        path: The file; its folder must be there.
        text: The text. Its line ends are written as they are.
        what: What it is, for the message.
        sync: As for `atomic_write`.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    with atomic_write(path, what, sync) as part:
        part.write_bytes(text.encode("utf-8", "surrogateescape"))


def open_for_update(path: Path) -> IO[bytes]:
    """Open a file that is written where it lies, made if it is missing, for reading and writing at any position.

    Raises:
        OSError: If it is a link, or no plain file: nothing is written then.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link(path) from None
        raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise _is_link(path)
    return os.fdopen(handle, "r+b")


def create_folder(path: Path) -> Path:
    """Make a folder that this project keeps files in, if it is missing, and return it.

    Raises:
        OSError: If it cannot be made, or is a link to another folder: nothing is written there then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    if path.is_symlink():
        raise _is_link(path)
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, f"{path} is a file, where a folder is to be: move it away")
    return path


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that have been killed left unfinished in a folder; what is being written now stays."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not (_UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
                continue
            lock = FileLock(Path(entry.path))
            with contextlib.suppress(OSError):
                if lock.acquire() and lock.enforced:  # otherwise another process may be writing it
                    os.unlink(entry.path)
            lock.release()


def next_free_path(path: Path) -> Path:
    """Return a path where there is nothing yet: the one given, or the next with a number (`table_1.csv`).

    What a user may have corrected is never written over.

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
    """Return a path that `next_free_path` gave for `wanted`, and why it is another one."""
    return str(path) if path == wanted else f"{path} ({wanted.name} is there already, and left as it is)"


def write_error(error: OSError, what: str, path: Path) -> OSError:
    """Return an error of the same number that says what could not be written, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    folder = argument("default_root_dir", TRAINER)
    if error.errno in _FULL:
        hint = f"free some space, or write elsewhere ({folder})"
    elif error.errno in _CLOSED:
        hint = f"choose a folder that can be written to ({folder})"
    else:
        hint = f"see to its disk, or write elsewhere ({folder})"
    kept = ", what was there before is still whole" if path.exists() else ""
    return type(error)(error.errno or errno.EIO, f"{what} {path} could not be written ({reason}){kept}: {hint}.")


def _is_link(path: Path) -> OSError:
    return OSError(
        errno.ELOOP, f"{path} is a link or has several names, and lit_cv writes through none: move it away, or copy "
        "what it leads to"
    )  # fmt: skip


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the system's error behind an exception: torch's writer of files raises one of its own over it."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
