"""Arrays that are mapped from a file, and stay so in worker processes."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["map_file"]


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
    array = np.load(file, mmap_mode="r").view(_MappedArray)
    array.file = file
    return array  # type: ignore[no-any-return]
