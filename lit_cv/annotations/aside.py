"""A folder that appears in one step, when all its files are there. Pure Python."""

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

__all__ = ["innermost", "remove_dead", "written_aside"]

_END = ".unfinished"
_LOCK = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def written_aside(target: Path, first: Collection[str] = ()) -> Iterator[Path]:
    """Give a new folder to write to, which becomes `target` in one step if nothing goes wrong.

    It lies beside `target` under an unpredictable name, and is locked while it is written: what a killed process leaves
    is removed by `remove_dead`. Where `target` is a folder that cannot be replaced (a mount point, the working
    directory, or one in a folder that is closed), it lies within, and its content is moved out at the end.

    Args:
        target: The folder, which must be empty or missing.
        first: Names in it that are moved first, where they are moved: those without which the others are of no use.

    Raises:
        OSError: If it cannot be written: nothing is left then.
    """
    place = _place(target)
    aside = place / f".{target.name[:100]}.{secrets.token_hex(8)}{_END}"
    lock = FileLock(aside.with_name(aside.name + _LOCK))
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock.create()
        aside.mkdir()
        yield aside
        _appear(aside, target, first)
    except OSError as error:
        raise _nothing_written(error, target, aside) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            lock.path.unlink()
        lock.release()


def remove_dead(target: Path) -> None:
    """Remove what killed processes left of `written_aside` for the same folder; what is being written now stays."""
    pattern = re.compile(rf"(\.{re.escape(target.name[:100])}\.[0-9a-f]{{16}}{re.escape(_END)})({re.escape(_LOCK)})?")
    for place in (target.parent, target):
        with contextlib.suppress(OSError):
            for name in {match[1] for entry in os.listdir(place) if (match := pattern.fullmatch(entry))}:
                _remove_if_dead(place / name)


def _remove_if_dead(folder: Path) -> None:
    lock = FileLock(folder.with_name(folder.name + _LOCK))
    with contextlib.suppress(OSError):
        if lock.acquire():
            shutil.rmtree(folder, ignore_errors=True)
            lock.path.unlink()
    lock.release()


def _place(target: Path) -> Path:
    """Return the folder to write in: that above the target, or the target itself where it has to stay."""
    stays = target.is_dir() and (
        os.path.ismount(target) or os.path.samefile(target, os.curdir) or not os.access(target.parent, os.W_OK)
    )
    return target if stays else target.parent


def _appear(aside: Path, target: Path, first: Collection[str]) -> None:
    if aside.parent != target:
        try:
            if target.is_dir():
                shutil.copymode(target, aside)
            os.rename(aside, target)
        except OSError as error:
            # Another disk is mounted there, or the system replaces no folder.
            if error.errno in (*_FULL, errno.ENOTEMPTY) or not target.is_dir() or any(target.iterdir()):
                raise
        else:
            return
    for entry in sorted(aside.iterdir(), key=lambda path: (path.name not in first, path.is_file(), path.name)):
        shutil.move(entry, target / entry.name)


def innermost(error: OSError) -> OSError:
    """Return the system's own error behind one that says what was not written."""
    return innermost(error.__cause__) if isinstance(error.__cause__, OSError) else error


def _nothing_written(error: OSError, target: Path, aside: Path) -> OSError:
    cause = innermost(error)
    reason = cause.strerror or str(cause)
    if cause.errno in _FULL:
        hint = f": free some space, or write elsewhere ({argument('out')})."
    elif cause.errno in _CLOSED:
        hint = f": choose a folder that can be written to ({argument('out')})."
    else:
        named = str(cause.filename or "")
        hint = f" ({argument('out')})."
        if named and str(aside) not in named:
            hint = f": {printable(named, lines=False)}."
    shown = printable(str(target), lines=False)
    return OSError(cause.errno or errno.EIO, f"nothing was written to {shown} ({reason}){hint}")
