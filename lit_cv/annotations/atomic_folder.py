"""Atomic writing of a folder: it appears only when all its files are complete. Pure Python."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from lit_cv.errors import argument
from lit_cv.file_lock import FileLock
from lit_cv.printable import printable

__all__ = ["atomic_folder", "remove_stale_folders", "root_cause"]

_SUFFIX = ".unfinished"
_LOCK_SUFFIX = ".part"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def atomic_folder(target: Path, first: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` in one step if no error occurs.

    The temporary folder is created beside `target` under an unpredictable name and locked while it is written.
    `remove_stale_folders` removes what a killed process leaves. If `target` cannot be replaced (a mount point, the
    working directory, or a folder whose parent is read-only), the temporary folder is created inside it and its
    content is moved up at the end.

    Args:
        target: The folder, which must be empty or missing.
        first: Entries to move first if the content is moved: those that the other entries depend on.

    Raises:
        OSError: If the folder cannot be written; nothing is left behind.
    """
    parent = _parent_of_draft(target)
    draft = parent / f".{target.name[:100]}.{secrets.token_hex(8)}{_SUFFIX}"
    lock = FileLock(draft.with_name(draft.name + _LOCK_SUFFIX))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock.create()
        draft.mkdir()
        yield draft
        _publish(draft, target, first)
    except OSError as error:
        raise _nothing_written(error, target, draft) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            lock.path.unlink()
        lock.release()


def remove_stale_folders(target: Path) -> None:
    """Remove temporary folders of `atomic_folder` that killed processes left for `target`, except locked ones."""
    pattern = re.compile(
        rf"(\.{re.escape(target.name[:100])}\.[0-9a-f]{{16}}{re.escape(_SUFFIX)})({re.escape(_LOCK_SUFFIX)})?"
    )
    for parent in (target.parent, target):
        with contextlib.suppress(OSError):
            for name in {match[1] for entry in os.listdir(parent) if (match := pattern.fullmatch(entry))}:
                _remove_if_stale(parent / name)


def _remove_if_stale(folder: Path) -> None:
    lock = FileLock(folder.with_name(folder.name + _LOCK_SUFFIX))
    with contextlib.suppress(OSError):
        if lock.acquire():
            shutil.rmtree(folder, ignore_errors=True)
            lock.path.unlink()
    lock.release()


def _parent_of_draft(target: Path) -> Path:
    """Return the folder to write in: the parent of `target`, or `target` itself if it cannot be replaced."""
    fixed = target.is_dir() and (
        os.path.ismount(target) or os.path.samefile(target, os.curdir) or not os.access(target.parent, os.W_OK)
    )
    return target if fixed else target.parent


def _publish(draft: Path, target: Path, first: Collection[str]) -> None:
    if draft.parent != target:
        try:
            if target.is_dir():
                shutil.copymode(target, draft)
            os.rename(draft, target)
        except OSError as error:
            # `target` is on another disk, or the system cannot replace folders.
            if error.errno in (*_DISK_FULL, errno.ENOTEMPTY) or not target.is_dir() or any(target.iterdir()):
                raise
        else:
            return
    for entry in sorted(draft.iterdir(), key=lambda path: (path.name not in first, path.is_file(), path.name)):
        shutil.move(entry, target / entry.name)


def root_cause(error: OSError) -> OSError:
    """Return the operating system's error at the end of a chain of causes."""
    return root_cause(error.__cause__) if isinstance(error.__cause__, OSError) else error


def _nothing_written(error: OSError, target: Path, draft: Path) -> OSError:
    cause = root_cause(error)
    reason = cause.strerror or str(cause)
    if cause.errno in _DISK_FULL:
        hint = f": free disk space or choose another folder ({argument('out')})."
    elif cause.errno in _NOT_WRITABLE:
        hint = f": choose a writable folder ({argument('out')})."
    else:
        file = str(cause.filename or "")
        hint = f" ({argument('out')})."
        if file and str(draft) not in file:
            hint = f": {printable(file, lines=False)}."
    shown = printable(str(target), lines=False)
    return OSError(cause.errno or errno.EIO, f"nothing was written to {shown} ({reason}){hint}")
