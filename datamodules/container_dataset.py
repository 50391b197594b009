"""Base of datasets whose images lie inside files of many images."""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.cache import cached_images
from datamodules.files import FileDataset
from datamodules.images import UnreadableImageError
from datamodules.inspection import unreadable_rows

__all__ = ["ContainerDataset"]

_CHECK_SIZE = 32  # side in pixels for test reads


class ContainerDataset(FileDataset):
    """Images inside files of many images, each read by position and decoded when it is fetched.

    A subclass implements `decode`, `containers`, `sources` and `rows_in`. The arguments are those of `FileDataset`,
    with the names of the images as `paths`.

    Attributes:
        check_name: Start of the name of the cache file that lists the unreadable images.
    """

    check_name: str

    @abstractmethod
    def decode(self, row: int, size: int) -> Tensor:
        """Return the image of a row of the source, (channels, size, size) uint8.

        Raises:
            UnreadableImageError: If it cannot be decoded.
            OSError: If its file cannot be read.
        """

    @abstractmethod
    def containers(self) -> list[str]:
        """Return the files that the samples lie in, relative to `root`."""

    def sources(self) -> list[str]:
        """Return all files that the images depend on, relative to `root`."""
        return self.containers()

    @abstractmethod
    def rows_in(self, container: str) -> list[int]:
        """Return the rows of the source in a file."""

    def image(self, row: int) -> Tensor:
        """Return the image of a row of the source, (channels, size, size) uint8."""
        return self.decode(row, self.size)

    def decoded(self, name: str) -> NDArray[np.uint8]:
        """Return the images of all samples, decoded once into a cache file named `{name}-...`."""
        rows = self.rows.tolist()
        return cached_images(
            self.root, self.chosen_paths(), self.size, self.channels, name, lambda position: self.image(rows[position]),
            self.sources(), self.value_range,
        )  # fmt: skip

    def files(self) -> None:
        """Return `None`, as the images have no separate files."""

    def file_states(self) -> None:
        """Return `None`, as the images have no separate files."""

    def unreadable(self) -> dict[str, str]:
        """Return the names of the samples that cannot be decoded, with the reasons."""
        reasons = unreadable_rows(self.root, self.containers(), self.check_name, self.rows_in, self._flaw, self.paths)
        paths = set(self.chosen_paths())
        return {path: reason for path, reason in reasons.items() if path in paths}

    def _flaw(self, row: int) -> str:
        """Return why an image cannot be decoded, or an empty string."""
        try:
            self.decode(row, _CHECK_SIZE)
        except OSError as error:
            return (isinstance(error, UnreadableImageError) and error.reason) or str(error)
        return ""
