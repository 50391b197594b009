"""Images decoded once, in a mapped file beside them."""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.decoding import ValueRange
from datamodules.images import read_image
from datamodules.mapped import map_file
from datamodules.stored_file import digest, draw_few, open_plain, stored_file
from datamodules.threads import in_threads
from lit_cv.errors import argument, setting

__all__ = ["cached_arrays", "cached_images"]

_TOLERANCE = 2  # values by which decoders and processors differ

Take = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


def cached_images(
    root: Path,
    paths: Sequence[str],
    size: int,
    channels: Literal[1, 3],
    name: str = "images",
    decode: Callable[[int], Tensor] | None = None,
    files: Sequence[str] | None = None,
    value_range: ValueRange | None = None,
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
        value_range: As in `read_image`.

    Returns:
        (N, channels, size, size) uint8, read-only.

    Raises:
        UnreadableImageError: If a file cannot be decoded.
        OSError: If there is no room for the file.
    """

    def make(position: int) -> NDArray[np.uint8]:
        if decode is not None:
            return decode(position).numpy()
        return read_image(root / paths[position], size, channels, value_range).numpy()

    which = f"{name}-{size}-{digest([channels, list(paths), value_range])}"
    shape = (len(paths), channels, size, size)
    sources = paths if files is None else files
    return _stored(root, which, sources, shape, len(paths), make, lambda images, position: images[position])


def cached_arrays(
    root: Path,
    files: Sequence[Sequence[str]],
    shapes: Sequence[tuple[int, ...]],
    make: Callable[[int], NDArray[np.uint8]],
    name: str,
    key: Any,
    tolerance: int = _TOLERANCE,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return arrays of different shapes that were made from files once, one after the other in a mapped file.

    Args:
        root: Folder that the files are relative to, where the cache lies.
        files: The files that each array is made from.
        shapes: Shape of each array.
        make: Returns the array of a position; called in threads.
        name: Start of the file's name.
        key: What else the arrays depend on, as JSON.
        tolerance: By how much the values of a cache from before may differ from those made now.

    Returns:
        All values, (total,) uint8, read-only; and where each array starts in them, (N + 1,).

    Raises:
        OSError: If there is no room for the file.
    """
    starts = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)], dtype=np.int64)

    def take(values: NDArray[np.uint8], position: int) -> NDArray[np.uint8]:
        return values[starts[position] : starts[position + 1]].reshape(shapes[position])

    which = f"{name}-{digest([key, [list(group) for group in files], [list(shape) for shape in shapes]])}"
    sources = sorted({file for group in files for file in group})
    return _stored(root, which, sources, (int(starts[-1]),), len(shapes), make, take, tolerance), starts


def _stored(
    root: Path,
    which: str,
    files: Sequence[str],
    shape: tuple[int, ...],
    count: int,
    make: Callable[[int], NDArray[np.uint8]],
    take: Take,
    tolerance: int = _TOLERANCE,
) -> NDArray[np.uint8]:
    """Return what is stored under a name for the files as they are now; make it first if it is not there.

    Args:
        root: Folder of the cache.
        which: Start of the file's name.
        files: The files that the arrays are made from.
        shape: Shape of all of them together.
        count: How many there are.
        make: Returns one of them.
        take: Returns the place of one among all.
        tolerance: By how much values from before may differ from those that `make` returns.
    """

    def store(images: NDArray[np.uint8], position: int) -> None:
        take(images, position)[...] = make(position)

    def flaw(file: Path) -> str:
        if reason := _unlike(file, shape):
            return reason
        images = map_file(file)
        for position in draw_few(file, range(count)):
            expected = make(position).astype(np.int16)
            if expected.size and np.abs(take(images, position) - expected).max() > tolerance:
                return "it holds other pixels than the images"
        return ""

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
                f"{free / 1e9:.1f} GB left: set {setting('cache', False)}, or a smaller {argument('image_size')}.",
            ) from error

    return map_file(stored_file(root, which, files, ".npy", write, flaw))


def _unlike(path: Path, shape: tuple[int, ...]) -> str:
    """Return how a file differs from one of numpy that holds uint8 of a shape, an empty text for not at all."""
    with open_plain(path) as file:
        np.lib.format.read_magic(file)
        found, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        length = os.fstat(file.fileno()).st_size - file.tell()
    if (found, fortran_order, dtype) != (shape, False, np.dtype(np.uint8)):
        return f"it holds {dtype} of shape {found}, not uint8 of shape {shape}"
    needed = int(np.prod(shape))
    return "" if length == needed else f"it holds {length:,} bytes of pixels, not {needed:,}"


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
