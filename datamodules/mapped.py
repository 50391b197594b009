"""Images memory-mapped from a file, which may be larger than the memory."""

import contextlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.dataset import Rows
from datamodules.memory import InMemoryDataset
from lit_cv.contracts import Batch

__all__ = ["MappedDataset", "map_file", "prefetch", "stays_in_memory"]

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # memory limits of a container


class _MappedArray(np.memmap[Any, np.dtype[np.uint8]]):
    """Array mapped from a file, pickled by file name for worker processes that are not forked."""

    file: Path | None = None  # not inherited by slices

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.file is None else (map_file, (self.file,))


def map_file(file: Path) -> NDArray[np.uint8]:
    """Return the array in a file, memory-mapped and read-only.

    Args:
        file: A file in numpy format.
    """
    array = np.lib.format.open_memmap(file, mode="r").view(_MappedArray)
    array.file = file
    return array


def prefetch(array: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Make the system read only these parts of a mapped array from the disk, all at once.

    Args:
        array: Array from `map_file`; others are ignored.
        starts: Start of each part in bytes, (N,).
        lengths: Length of each part in bytes, (N,).
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
    """Return whether a file of this size in bytes is likely to stay in memory once it is read.

    Worker processes are only worthwhile if images are read from the disk repeatedly.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 33
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(Path(limit).read_text(encoding="ascii")))
    return size < memory / 2


class MappedDataset(InMemoryDataset):
    """Images decoded earlier, mapped from a file; their statistics are unknown, as without a cache.

    If the images may not fit into memory, those of a batch are prefetched: otherwise the system would read far more
    around each, or one page after another.

    Args:
        images: (N, C, H, W) uint8 from `map_file`.
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
            prefetch(self.images, rows * length, np.full(len(rows), length))
        return super().read(rows)

    def statistics(self) -> None:
        """Return `None`, as all images would have to be read."""
        return None
