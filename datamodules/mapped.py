"""Images that are mapped from a file: as many as the disk holds, in memory only while they are read."""

import contextlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.dataset import Rows
from datamodules.loader import Batch
from datamodules.memory import InMemoryDataset

__all__ = ["MappedDataset", "announce", "map_file", "stays_in_memory"]

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


class _MappedArray(np.memmap[Any, np.dtype[np.uint8]]):
    """The content of a file; pickled as the file's name, for a worker process that is not forked gets a pickle."""

    file: Path | None = None  # parts of the array do not inherit it

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.file is None else (map_file, (self.file,))


def map_file(file: Path) -> NDArray[np.uint8]:
    """Return the array in a file, read-only; what is read of it can be dropped from memory again.

    Args:
        file: A file in numpy's format.
    """
    array = np.lib.format.open_memmap(file, mode="r").view(_MappedArray)
    array.file = file
    return array


def announce(array: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Have the system read parts of a mapped array from the disk, all at once, and nothing around them.

    Args:
        array: What `map_file` gave; nothing is done for another one.
        starts: Byte of the array at which each part starts, (N,).
        lengths: Bytes of each part, (N,).
    """
    content = getattr(array, "_mmap", None)
    if not isinstance(content, mmap.mmap) or not hasattr(mmap, "MADV_WILLNEED"):
        return
    content.madvise(mmap.MADV_RANDOM)
    header = len(content) - array.nbytes
    for start, length in sorted(zip(starts.tolist(), lengths.tolist(), strict=True)):
        page = (header + start) % mmap.PAGESIZE
        content.madvise(mmap.MADV_WILLNEED, header + start - page, length + page)


def stays_in_memory(size: int) -> bool:
    """Whether a file of so many bytes is likely to be kept in memory once it is read.

    Worker processes pay off only where images come from the disk again and again.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 33
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(Path(limit).read_text(encoding="ascii")))
    return size < memory / 2


class MappedDataset(InMemoryDataset):
    """Images decoded before, mapped from a file; their statistics are left unknown, as they are without a cache.

    Of a set that may not fit into memory the images of a batch are announced before they are read: the system would
    read far more around each, or one page after another.

    Args:
        images: (N, C, H, W) uint8, what `map_file` gives.
        labels: (N,) integers, -1 where unlabeled; or (N, K) of 0 and 1.
        class_names: Names of the classes.
        names: Names of the images.
    """

    def __init__(self, images: Any, labels: Any, class_names: Sequence[str], names: Sequence[str]) -> None:
        super().__init__(images, labels, class_names, names)
        self.in_memory = stays_in_memory(images.nbytes)

    def read(self, rows: Rows) -> Batch:
        """Return the images of these rows."""
        if not self.in_memory:
            length = self.images[:1].nbytes
            announce(self.images, rows * length, np.full(len(rows), length))
        return super().read(rows)

    def statistics(self) -> None:
        """Return nothing: all images would have to be read."""
        return None
