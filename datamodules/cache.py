"""What has been found out about image files, kept beside them: the decoded images, and which cannot be read."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images import UnreadableImageError, read_image
from datamodules.mapped import map_file

__all__ = [
    "cache_folder",
    "cached_arrays",
    "cached_images",
    "in_threads",
    "inspected",
    "stored_file",
    "unreadable_files",
]

log = logging.getLogger("lit_cv")

_VERSION = 1  # of the decoder: raise it when read_image gives other pixels
_FOLDER = ".lit_cv_cache"
_PART = 64  # images that a thread takes at a time
_CHECK_SIZE = 32  # pixels that a file is read at to see whether it can be


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


def cached_images(
    root: Path,
    paths: Sequence[str],
    size: int,
    channels: Literal[1, 3],
    name: str = "images",
    decode: Callable[[int], Tensor] | None = None,
    files: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """Return all images decoded, mapped from a file; decode them first if that has not been done.

    The file is known by the paths, sizes and times of the images, so that it is made again when they change. It
    appears whole or not at all; several processes may ask for it at once, of which one makes it.

    Args:
        root: Folder that the paths are relative to.
        paths: The images.
        size: Side of the decoded images in pixels.
        channels: 3 for color, 1 for grey.
        name: Start of the file's name.
        decode: Returns the image of a position, where the images are no files; called in threads.
        files: The files that the images lie in, where these are other ones.

    Returns:
        (N, channels, size, size) uint8, read-only.

    Raises:
        UnreadableImageError: If a file cannot be decoded.
        OSError: If there is no room for the file.
    """

    def store(images: NDArray[np.uint8], position: int) -> None:
        image = read_image(root / paths[position], size, channels) if decode is None else decode(position)
        images[position] = image.numpy()

    which = f"{name}-{size}-{_digest([channels, list(paths)])}"
    shape = (len(paths), channels, size, size)
    return _stored(root, which, paths if files is None else files, shape, len(paths), store)


def cached_arrays(
    root: Path,
    files: Sequence[Sequence[str]],
    shapes: Sequence[tuple[int, ...]],
    make: Callable[[int], NDArray[np.uint8]],
    name: str,
    key: Any,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return arrays of different shapes that were made from files once, one after the other in a mapped file.

    Args:
        root: Folder that the files are relative to, where the cache lies.
        files: The files that each array is made from.
        shapes: Shape of each array.
        make: Returns the array of a position; called in threads.
        name: Start of the file's name.
        key: What else the arrays depend on, as JSON.

    Returns:
        All values, (total,) uint8, read-only; and where each array starts in them, (N + 1,).

    Raises:
        OSError: If there is no room for the file.
    """
    starts = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)], dtype=np.int64)

    def store(values: NDArray[np.uint8], position: int) -> None:
        values[starts[position] : starts[position + 1]] = make(position).reshape(-1)

    which = f"{name}-{_digest([key, [list(group) for group in files], [list(shape) for shape in shapes]])}"
    sources = sorted({file for group in files for file in group})
    return _stored(root, which, sources, (int(starts[-1]),), len(shapes), store), starts


def _stored(
    root: Path,
    which: str,
    files: Sequence[str],
    shape: tuple[int, ...],
    count: int,
    store: Callable[[NDArray[np.uint8], int], None],
) -> NDArray[np.uint8]:
    """Return what is stored under a name for the files as they are now; make it first if it is not there."""

    def write(unfinished: Path) -> None:
        needed = int(np.prod(shape))
        try:
            if needed > shutil.disk_usage(unfinished.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            images = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
            _reserve(unfinished)
            in_threads(lambda position: store(images, position), count, f"Decoding images into {unfinished.parent}")
            images.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(unfinished.parent).free
            raise OSError(
                errno.ENOSPC,
                f"the cache of {count} images takes {needed / 1e9:.1f} GB, but {unfinished.parent} has "
                f"{free / 1e9:.1f} GB left: set --data.cache false, or a smaller --data.image_size.",
            ) from error

    return map_file(stored_file(root, which, files, ".npy", write))


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


def _reserve(file: Path) -> None:
    """Take the room on the disk now: a mapped page that finds none later ends the process without a word (SIGBUS)."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(file, "r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise


def unreadable_files(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return the files that cannot be decoded, each with the reason; every file is decoded once while unchanged.

    Args:
        root: Folder that the paths are relative to.
        paths: The images.
    """

    def check(path: str) -> str:
        try:
            read_image(root / path, _CHECK_SIZE)
        except UnreadableImageError as error:
            return str(error).rpartition(f"{path}: ")[2]
        except OSError as error:
            return str(error)
        return ""

    reasons = inspected(root, paths, "checked", check, "Checking images")
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def inspected(root: Path, paths: Sequence[str], name: str, look: Callable[[str], Any], title: str) -> list[Any]:
    """Return what `look` finds in each file, which is remembered in `name`.json as long as the file is unchanged.

    Args:
        root: Folder that the paths are relative to.
        paths: The files.
        name: Name of what is looked for.
        look: Returns what is found in a file, as JSON; called in threads.
        title: What the progress bar says.
    """
    file = None
    with contextlib.suppress(PermissionError):
        file = cache_folder(root) / f"{name}.json"
    known: dict[str, list[Any]] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8")) if file else {}
    prints = {path: _fingerprint(root, path) for path in paths}
    new = [path for path in prints if known.get(path, [None])[:-1] != [_VERSION, *prints[path]]]

    def note(position: int) -> None:
        path = new[position]
        known[path] = [_VERSION, *prints[path], look(path)]

    if new:
        in_threads(note, len(new), title)
        if file:
            unfinished = file.with_name(f".{file.name}.{os.getpid()}")
            try:
                unfinished.write_text(json.dumps(known), encoding="utf-8")
                os.replace(unfinished, file)
            except OSError as error:  # they are found out again next time
                log.warning("What was found out about the files is not kept: %s", error)
            finally:
                with contextlib.suppress(OSError):
                    unfinished.unlink(missing_ok=True)
    return [known[path][-1] for path in paths]


def _fingerprint(root: Path, path: str) -> list[Any]:
    """Return path, size and time of change of a file; -1 where there is none."""
    try:
        found = os.stat(root / path)
    except (OSError, ValueError):  # also a name that the system has no place for
        return [path, -1, -1]
    return [path, found.st_size, found.st_mtime_ns]


def _state(root: Path, files: Sequence[str]) -> str:
    """Return a digest of the files as they are now, without a list of what is known of each."""
    digest = hashlib.sha256(f"[{_VERSION}, [".encode())
    for position, file in enumerate(files):
        digest.update((", " * (position > 0) + json.dumps(_fingerprint(root, file))).encode())
    digest.update(b"]]")
    return digest.hexdigest()[:20]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]


def in_threads(work: Callable[[int], None], count: int, title: str) -> None:
    """Call `work` for each position in as many threads as there are cores, which decoding can use; show how far.

    Args:
        work: What to do.
        count: Number of positions.
        title: What the progress bar says.
    """
    from rich.console import Console
    from rich.progress import track

    cores = os.cpu_count() or 1
    part = min(_PART, max(1, count // (8 * cores)))  # a task each would take more memory than it works on

    def work_on(start: int) -> None:
        for position in range(start, min(start + part, count)):
            work(position)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # otherwise each thread would start threads of its own
    console = Console(stderr=True)
    pool = ThreadPoolExecutor(max_workers=cores)
    try:
        parts = range(0, count, part)
        done = pool.map(work_on, parts)
        for _ in track(done, title, len(parts), console=console, transient=True, disable=not console.is_terminal):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


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
