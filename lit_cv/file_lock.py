"""A file lock that the system releases when the process that holds it ends. Pure Python."""

import contextlib
import errno
import os
import stat
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileLock"]

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_held: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


class FileLock:
    """An exclusive lock on a file, which is never written to, and never opened through a link.

    Forked processes do not inherit it, so workers that outlive a killed run do not block the next one. If the system or
    the file system has no locks, every process acquires it.

    Args:
        path: The file. Its folder must exist.

    Attributes:
        enforced: Whether the acquired lock excludes other processes.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / ".lock"
        >>> with FileLock(path) as first, FileLock(path) as second:
        ...     first.acquire(), second.acquire()
        (True, False)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.enforced = False
        self._handle: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Acquire the lock; create the file if it is missing.

        Args:
            wait: Whether to wait for another process that holds it.

        Returns:
            Whether this object holds it now.

        Raises:
            OSError: If the file is a link, is not a regular file, or cannot be created.
        """
        self._open(os.O_CREAT)
        return self._lock(wait)

    def create(self) -> None:
        """Create the file, which must not exist, and acquire its lock.

        Raises:
            OSError: If the path exists, or the file cannot be created.
        """
        self._open(os.O_CREAT | os.O_EXCL)
        self._lock(wait=False)

    def release(self) -> None:
        """Release the lock; the file stays."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self, flags: int) -> None:
        if self._handle is not None:
            return
        nonblocking = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would block
        try:
            handle = os.open(self.path, os.O_RDWR | _NO_LINK | nonblocking | flags, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise OSError(errno.ELOOP, f"{self.path} is a link, but lit_cv keeps a lock here: remove it") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.ELOOP, f"{self.path} is not a regular file, but lit_cv keeps a lock here: remove it")
        self._handle = handle
        _held.add(self)

    def _lock(self, wait: bool) -> bool:
        if fcntl is None or self._handle is None:
            return True
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self.enforced = True
        except BlockingIOError:
            self.release()
            return False
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.release()


def _forget_in_child() -> None:
    """Close the inherited handles of the parent's locks in a forked child, so that only the parent holds them."""
    for lock in list(_held):
        with contextlib.suppress(OSError):
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
