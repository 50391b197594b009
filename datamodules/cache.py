"""Cache of decoded images in a memory-mapped file beside them."""

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
from datamodules.stored_file import digest, draw_few, open_regular, stored_file
from datamodules.threads import in_threads
from lit_cv.errors import argument, setting

__all__ = ["cached_arrays", "cached_images"]

_TOLERANCE = 2  # maximum difference of pixel values between decoders and processors

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
    """Return all decoded images, memory-mapped from a cache file that is written first if missing.

    The file's name depends on the paths, sizes and modification times of the images, so that changes invalidate it.
    It is written atomically; if several processes request it at once, one of them writes it.

    Args:
        root: Folder that the paths are relative to.
        paths: The images.
        size: Side of the decoded images in pixels.
        channels: 3 for color, 1 for gray.
        name: Prefix of the cache file's name.
        decode: Returns the image at a position, if images are not files; called in threads.
        files: The files that contain the images, if different from `paths`.
        value_range: See `read_image`.

    Returns:
        (N, channels, size, size) uint8, read-only.

    Raises:
        UnreadableImageError: If a file cannot be decoded.
        OSError: If the disk is full.
    """

    def make(position: int) -> NDArray[np.uint8]:
        if decode is not None:
            return decode(position).numpy()
        return read_image(root / paths[position], size, channels, value_range).numpy()

    key = f"{name}-{size}-{digest([channels, list(paths), value_range])}"
    shape = (len(paths), channels, size, size)
    sources = paths if files is None else files
    return _stored(root, key, sources, shape, len(paths), make, lambda images, position: images[position])


def cached_arrays(
    root: Path,
    files: Sequence[Sequence[str]],
    shapes: Sequence[tuple[int, ...]],
    make: Callable[[int], NDArray[np.uint8]],
    name: str,
    key: Any,
    tolerance: int = _TOLERANCE,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return arrays of different shapes, memory-mapped from one cache file that is written first if missing.

    Args:
        root: Folder of the cache that the files are relative to.
        files: Source files of each array.
        shapes: Shape of each array.
        make: Returns the array at a position; called in threads.
        name: Prefix of the cache file's name.
        key: JSON value of everything else that the arrays depend on.
        tolerance: Maximum difference between values of an existing cache and newly made ones.

    Returns:
        All values, (total,) uint8, read-only, and the start of each array, (N + 1,).

    Raises:
        OSError: If the disk is full.
    """
    starts = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)], dtype=np.int64)

    def take(values: NDArray[np.uint8], position: int) -> NDArray[np.uint8]:
        return values[starts[position] : starts[position + 1]].reshape(shapes[position])

    file_key = f"{name}-{digest([key, [list(group) for group in files], [list(shape) for shape in shapes]])}"
    sources = sorted({file for group in files for file in group})
    return _stored(root, file_key, sources, (int(starts[-1]),), len(shapes), make, take, tolerance), starts


def _stored(
    root: Path,
    key: str,
    files: Sequence[str],
    shape: tuple[int, ...],
    count: int,
    make: Callable[[int], NDArray[np.uint8]],
    take: Take,
    tolerance: int = _TOLERANCE,
) -> NDArray[np.uint8]:
    """Return the memory-mapped array of a cache file, which is written first if it is missing or outdated.

    Args:
        root: Folder of the cache.
        key: Prefix of the file's name.
        files: Source files of the arrays.
        shape: Shape of the stored array.
        count: Number of single arrays.
        make: Returns a single array.
        take: Returns the view of a single array in the stored one.
        tolerance: Maximum difference between existing values and those of `make`.
    """

    def store(images: NDArray[np.uint8], position: int) -> None:
        take(images, position)[...] = make(position)

    def flaw(file: Path) -> str:
        if reason := _format_flaw(file, shape):
            return reason
        images = map_file(file)
        for position in draw_few(file, range(count)):
            expected = make(position).astype(np.int16)
            if expected.size and np.abs(take(images, position) - expected).max() > tolerance:
                return "its pixels differ from those of the images"
        return ""

    def write(draft: Path) -> None:
        needed = int(np.prod(shape))
        try:
            if needed > shutil.disk_usage(draft.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            images = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
            _reserve(draft)
            in_threads(lambda position: store(images, position), count, f"Decoding images into {draft.parent}")
            images.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(draft.parent).free
            raise OSError(
                errno.ENOSPC,
                f"the cache of {count} images needs {needed / 1e9:.1f} GB, but {draft.parent} has "
                f"{free / 1e9:.1f} GB left: set {setting('cache', False)} or a smaller {argument('image_size')}.",
            ) from error

    return map_file(stored_file(root, key, files, ".npy", write, flaw))


def _format_flaw(path: Path, shape: tuple[int, ...]) -> str:
    """Return why a file is not a numpy file of uint8 of this shape, or an empty string if it is."""
    with open_regular(path) as file:
        np.lib.format.read_magic(file)
        stored_shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        length = os.fstat(file.fileno()).st_size - file.tell()
    if (stored_shape, fortran_order, dtype) != (shape, False, np.dtype(np.uint8)):
        return f"it contains {dtype} of shape {stored_shape}, not uint8 of shape {shape}"
    needed = int(np.prod(shape))
    return "" if length == needed else f"it contains {length:,} bytes of pixels, not {needed:,}"


def _reserve(file: Path) -> None:
    """Reserve disk space, as writing to a mapped page on a full disk kills the process without a message (SIGBUS)."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(file, "r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
