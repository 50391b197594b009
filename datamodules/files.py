"""Datasets and base DataModule of image files."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor

from datamodules.base import BaseDataModule, Split
from datamodules.cache import cached_images
from datamodules.checks import check, checked_range
from datamodules.dataset import ImageDataset, Rows, as_labels
from datamodules.decoding import ValueRange
from datamodules.images import read_image
from datamodules.inspection import unreadable_files
from datamodules.mapped import MappedDataset
from datamodules.separation import FileStates, file_states
from lit_cv.annotations.sizes import file_size
from lit_cv.contracts import Batch
from lit_cv.errors import setting
from lit_cv.printable import printable

__all__ = ["FileDataset", "FilesDataModule", "some_names"]

log = logging.getLogger("lit_cv")

_SHOWN = 5  # broken files named in a message
_NAMES = 20  # names listed in a message
_SAMPLE = 16  # images to check the size of
_ENLARGED = 3  # enlargement factor from which to warn


class FileDataset(ImageDataset):
    """Image files, decoded when they are fetched.

    Args:
        root: Folder that the paths are relative to.
        paths: The files.
        labels: (N,) integers, -1 where unlabeled; or (N, K) of 0 and 1.
        class_names: Names of the classes.
        size: Side of the images in pixels.
        channels: 3 for color, 1 for gray.
        value_range: See `read_image`.
    """

    has_names = True

    def __init__(
        self,
        root: str | Path,
        paths: Sequence[str],
        labels: Any,
        class_names: Sequence[str] = (),
        size: int = 224,
        channels: Literal[1, 3] = 3,
        value_range: ValueRange | None = None,
    ) -> None:
        super().__init__(as_labels(labels), class_names)
        self.root = Path(root)
        self.paths = paths
        self.size = size
        self.channels: Literal[1, 3] = channels
        self.value_range = value_range
        self._states: list[FileStates] = []  # of all rows of the source, shared by all subsets

    def read(self, rows: Rows) -> Batch:
        """Decode the files of these rows."""
        images = torch.empty(len(rows), self.channels, self.size, self.size, dtype=torch.uint8)
        for position, row in enumerate(rows.tolist()):
            images[position] = self.image(row)
        return {"image": images}

    def image(self, row: int) -> Tensor:
        """Return the image of a row of the source, (channels, size, size) uint8."""
        return read_image(self.root / self.paths[row], self.size, self.channels, self.value_range)

    def decoded(self, name: str) -> NDArray[np.uint8]:
        """Return the images of all samples, decoded once into a cache file named `{name}-...`."""
        paths = self.chosen_paths()
        return cached_images(self.root, paths, self.size, self.channels, name, value_range=self.value_range)

    def unreadable(self) -> dict[str, str]:
        """Return the paths of the samples that cannot be decoded, with the reasons."""
        return unreadable_files(self.root, self.chosen_paths(), self.value_range)

    def sample_name(self, index: int) -> str:
        """Return the path of a sample."""
        return self.paths[int(self.rows[index])]

    def files(self) -> tuple[Path, list[str]] | None:
        """Return the folder and the relative paths of the samples."""
        return self.root, self.chosen_paths()

    def file_states(self) -> FileStates | None:
        """Return identity and size of the file of each sample."""
        if not self._states:
            self._states.append(file_states(self.root, self.paths))
        return self._states[0].take(self.rows)

    def resized(self, size: int) -> Self:
        """Return the same files, decoded at another size."""
        other = copy.copy(self)
        other.size = size
        return other

    def chosen_paths(self) -> list[str]:
        """Return the paths in the order of the samples."""
        return [self.paths[row] for row in self.rows]


class FilesDataModule(BaseDataModule):
    """Base of DataModules that read image files. A subclass implements `load` with a `FileDataset`.

    Args:
        image_size: Side of the images in pixels: the centered square is resized with antialiasing.
        train_image_size: Side of the training images in pixels, for an augmentation that crops them; `None` uses
            `image_size`.
        channels: 3 for color, 1 for gray.
        value_range: Lowest and highest value of gray images with 16 or 32 bits (TIFF, PNG), mapped to 0 and 255; for
            12-bit files `[0, 4095]`; `None` means 0 to 65535.
        on_error: How to treat unreadable files: `raise` stops the run when one is read; `skip` checks all files first
            (once while they do not change), and skips and lists the unreadable ones.
        cache: Whether all images are decoded once, into a file in a folder `.lit_cv_cache` beside them.
        test_fraction: Share of the images held out for testing if the source has no splits, stratified by class; in
            [0, 1).
        train_size: Old name of `train_image_size`.
        **kwargs: Arguments of `BaseDataModule`.
    """

    renamed_arguments: ClassVar[dict[str, str]] = {"train_size": "train_image_size"}

    def __init__(
        self,
        image_size: int = 224,
        train_image_size: int | None = None,
        channels: Literal[1, 3] = 3,
        on_error: Literal["raise", "skip"] = "raise",
        cache: bool = False,
        test_fraction: float = 0.1,
        value_range: list[float] | None = None,
        train_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check(self, "image_size", image_size, image_size >= 1, "at least 1")
        train_image_size = self.hparams["train_image_size"]
        check(
            self, "train_image_size", train_image_size, train_image_size is None or train_image_size >= 1, "at least 1"
        )
        check(self, "channels", channels, channels in (1, 3), "1 or 3")
        check(self, "on_error", on_error, on_error in ("raise", "skip"), "'raise' or 'skip'")
        check(self, "test_fraction", test_fraction, 0 <= test_fraction < 1, "a share in [0, 1)")
        self.value_range = checked_range(self, value_range)
        self._pool: dict[str, FileDataset] = {}

    def prepare_data(self) -> None:
        """Check or decode the files in one process, so that the others can read the cached results."""
        if self.hparams["cache"] or self.hparams["on_error"] == "skip":
            self.setup()

    def forget(self) -> None:
        """Discard the splits, so that they are made again."""
        super().forget()
        self._pool = {}

    def split_pool(self, pool: FileDataset, split: Split) -> FileDataset | None:
        """Return the training or test part of images without splits."""
        if not self._pool:
            pool = self.readable(pool)
            kept, held = self.division.hold_out(pool, "test", self.hparams["test_fraction"], purpose=2)
            self._pool = {"train": pool.subset(kept)}
            if len(held):
                self._pool["test"] = pool.subset(held)
        return self._pool.get(split)

    def readable(self, dataset: FileDataset) -> FileDataset:
        """Return the files; with `on_error="skip"`, without the unreadable ones, which are logged."""
        dataset.value_range = self.value_range
        if self.hparams["on_error"] != "skip":
            return dataset
        paths = dataset.chosen_paths()
        broken = dataset.unreadable()
        if not broken:
            return dataset
        shown = "\n".join(
            f"  {printable(path, lines=False)}: {printable(reason, lines=False)}"
            for path, reason in list(broken.items())[:_SHOWN]
        )
        more = f"\n  and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        log.warning("%d of %d images cannot be read and are skipped:\n%s%s", len(broken), len(paths), shown, more)
        if len(broken) == len(paths):
            raise ValueError(f"none of the {len(paths)} images in {dataset.root} can be read.")
        return dataset.subset([position for position, path in enumerate(paths) if path not in broken])

    def finish(self, dataset: ImageDataset, split: Split) -> ImageDataset:
        """Return the dataset of a split at its image size, from the cache if `cache` is set."""
        h = self.hparams
        if not isinstance(dataset, FileDataset):
            return dataset
        dataset = dataset.resized((h["train_image_size"] if split == "train" else None) or h["image_size"])
        dataset.value_range = self.value_range
        if not h["cache"]:
            return dataset
        paths = dataset.chosen_paths()
        cached = MappedDataset(dataset.decoded(split), dataset.labels, dataset.class_names, paths)
        cached.soft_labels = dataset.soft_labels
        return cached

    def setup(self, stage: str | None = None) -> None:
        """Load and split the images once; warn if they are far smaller than the size they are resized to."""
        first = not self._is_set_up
        super().setup(stage)
        if first and stage in (None, "fit"):
            self._warn_enlarged()

    @rank_zero_only
    def _warn_enlarged(self) -> None:
        files, size = self._parts["train"].files(), self.hparams["image_size"]
        if files is None:
            return
        chosen = files[1][:: max(1, len(files[1]) // _SAMPLE)]
        sizes = [stored for name in chosen if not isinstance(stored := file_size(files[0] / name), str)]
        typical = sorted(sizes, key=min)[len(sizes) // 2] if sizes else (size, size)
        if min(typical) * _ENLARGED <= size:
            log.warning(
                "The images have %d x %d pixels and are enlarged to %d x %d, which takes time but adds no information: "
                "set %s, unless pretrained weights need the larger size.",
                *typical, size, size, setting("image_size", min(typical), self),
            )  # fmt: skip

    def _describe(self, train: ImageDataset) -> None:
        super()._describe(train)
        self.image_size = (self.hparams["image_size"], self.hparams["image_size"])


def some_names(names: Sequence[str]) -> str:
    """Return the first names in printable form, and the number of further names."""
    more = len(names) - _NAMES
    shown = ", ".join(printable(name, lines=False) for name in names[:_NAMES])
    return shown + (f" and {more} more" if more > 0 else "")
