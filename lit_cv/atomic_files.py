"""Files that are on disk whole or not at all, and what is said when there is no room for them. Pure Python."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["could_not_write", "free_path", "path_in_words", "replacing"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """Give a path beside `path` to write to, which takes its place in one step if nothing goes wrong.

    Args:
        path: The file that is to be written; its folder must be there.
        what: What it is, for the message.

    Raises:
        OSError: If it cannot be written; what was there before stays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> with replacing(path, "the table") as part: _ = part.write_text("1,2")
        >>> path.read_text()
        '1,2'
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except Exception as error:
        if (cause := _system_error(error)) is not None:
            raise could_not_write(cause, what, path) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # it would hide the first error
            part.unlink(missing_ok=True)


def free_path(path: Path) -> Path:
    """Return a path where there is nothing yet: the one given, or the next with a number (`table_1.csv`).

    What a user may have corrected is never written over.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> path.touch()
        >>> free_path(path).name
        'table_1.csv'
    """
    numbered = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(1))
    return next(candidate for candidate in itertools.chain([path], numbered) if not os.path.lexists(candidate))


def path_in_words(path: Path, wanted: Path) -> str:
    """Return a path that `free_path` gave for `wanted`, and why it is another: a user looks where it was before."""
    return str(path) if path == wanted else f"{path} ({wanted.name} is there already, and left as it is)"


def could_not_write(error: OSError, what: str, path: Path) -> OSError:
    """Return an error of the same number that says what could not be written, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        hint = "free some space, or write elsewhere (--trainer.default_root_dir)"
    elif error.errno in _CLOSED:
        hint = "choose a folder that can be written to (--trainer.default_root_dir)"
    else:
        hint = "see to its disk, or write elsewhere (--trainer.default_root_dir)"
    kept = ", what was there before is still whole" if path.exists() else ""
    return type(error)(error.errno or errno.EIO, f"{what} {path} could not be written ({reason}){kept}: {hint}.")


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the system's error behind an exception: torch's writer of files raises one of its own over it."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
