"""Custom images in tar files, in WebDataset's layout."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.base import Split
from datamodules.checks import check
from datamodules.classes import numbers_first
from datamodules.container_dataset import ContainerDataset
from datamodules.files import FileDataset, FilesDataModule, some_names
from datamodules.images import UnreadableImageError, decode_image, read_into
from datamodules.shard_index import COMPRESSED, MAX_IMAGE_BYTES, ShardIndex, index_shards
from datamodules.shard_samples import SPARSE
from lit_cv.annotations.clutter import is_clutter
from lit_cv.annotations.layout import split_in
from lit_cv.annotations.masks import mask_class_names
from lit_cv.errors import argument, setting
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["ShardDataset", "WebDatasetDataModule"]

log = logging.getLogger("lit_cv")

_SHOWN = 5  # samples named in a message


class ShardDataset(ContainerDataset):
    """Images in tar files, each read by position and decoded when it is fetched.

    Args:
        root: Folder that the paths are relative to.
        shards: The tar files.
        index: Positions and labels of the images.
        labels: (N,) integers, -1 where unlabeled.
        class_names: Names of the classes.
        channels: 3 for color, 1 for gray.
    """

    def __init__(
        self,
        root: Path,
        shards: Sequence[str],
        index: ShardIndex,
        labels: Any,
        class_names: Sequence[str] = (),
        channels: Literal[1, 3] = 3,
    ) -> None:
        super().__init__(root, index.names, labels, class_names, channels=channels)
        self.shards = list(shards)
        self.index = index
        self.check_name = f"checked_shards_{index.image_field}"

    def containers(self) -> list[str]:
        """Return the tar files of the samples."""
        return [self.shards[number] for number in np.unique(self.index.shard[self.rows]).tolist()]

    def rows_in(self, container: str) -> list[int]:
        """Return the rows with an image in a tar file."""
        inside = (self.index.shard == self.shards.index(container)) & (self.index.offset >= 0)
        return np.flatnonzero(inside).tolist()

    def decode(self, row: int, size: int) -> Tensor:
        """Return the image of a row, (channels, size, size) uint8."""
        shard = int(self.index.shard[row])
        path = self.root / self.shards[shard]
        name = f"{self.root}/{self.paths[row]}"
        with open(path, "rb", buffering=0) as file:
            state = os.fstat(file.fileno())
            if [state.st_size, state.st_mtime_ns] != self.index.states[shard].tolist():
                raise OSError(f"{_shown(path)} has changed since the start of the run: start it again.")
            length = int(self.index.size[row])
            if length == SPARSE or length > MAX_IMAGE_BYTES:
                problem = "is sparse" if length == SPARSE else f"declares {length:,} bytes"
                raise UnreadableImageError.of(name, f"its entry in the tar file {problem}: write it again")
            file.seek(int(self.index.offset[row]))
            data = read_into(bytearray(length), file)
        return decode_image(data, name, size, self.channels, self.value_range)


class WebDatasetDataModule(FilesDataModule):
    """Custom images in tar files (shards) in WebDataset's layout, for datasets too large for folders of images.

    A sample consists of the files with the same name up to the first dot: `KEY.jpg` (or `.png`, `.webp`, ...) and
    `KEY.cls`, the number or name of its class as text. `root` contains `train-*.tar`, `val-*.tar` and `test-*.tar`, or
    folders `train`, `val` and `test` of tar files, or tar files without splits. A missing `val` is held out of the
    training images; a missing `test` is held out only if no tar file is named after a split. Tar files named `predict`
    need no labels. The classes are those of the training images, numbers first; if `root` contains `classes.txt`, its
    lines are the class names in order, and numbers refer to its lines from 0.

    Images are read by position, not streamed through a shuffle buffer as usual: every epoch has a new order of the
    entire dataset, and a run resumes exactly in the middle of an epoch. The positions are determined once while the
    tar files do not change, and cached in a folder `.lit_cv_cache` beside them.

    Args:
        root: The folder.
        image_field: Extension of the images, such as `input.jpg`; `None` uses the only image extension.
        label_field: Extension of the label files; without such files, a field of `KEY.json`. `None` for images without
            labels.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If `root` is missing or contains no tar files.
        ValueError: If a tar file is compressed or broken, a sample lacks its image or label, or a class is unknown.
    """

    def __init__(
        self, root: str = "data", image_field: str | None = None, label_field: str | None = "cls", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        for name, field in (("image_field", image_field), ("label_field", label_field)):
            check(self, name, field, field is None or (field != "" and "/" not in field), "an extension, or null")
        self._datasets: dict[str, FileDataset] = {}

    def prepare_data(self) -> None:
        """Index the tar files in one process, so that the others can read the cached index."""
        self.setup()

    def load(self, split: Split) -> FileDataset | None:
        """Return the images of a split."""
        if not self._datasets:
            self._datasets = self._read()
        if "all" in self._datasets and split in ("train", "test"):
            return self.split_pool(self._datasets["all"], split)
        dataset = self._datasets.get(split)
        return None if dataset is None else self.readable(dataset)

    def _read(self) -> dict[str, FileDataset]:
        h = self.hparams
        root = Path(h["root"]).expanduser()
        shards = _find_shards(root)
        index = index_shards(root, shards, h["image_field"], h["label_field"])
        splits = _splits(root, shards)
        rows = {split: np.flatnonzero(np.isin(index.shard, numbers)) for split, numbers in splits.items()}
        rows = {split: self._complete_rows(index, part, split) for split, part in rows.items()}
        names, numbers = _classes(root, index, rows)
        labels = numbers[index.label]  # -1 selects the last number, that of no label
        dataset = ShardDataset(root, shards, index, labels, names, h["channels"])
        return {split: dataset.subset(part) for split, part in rows.items()}

    def _complete_rows(self, index: ShardIndex, rows: NDArray[np.int64], split: str) -> NDArray[np.int64]:
        """Return the samples with image and label; raise or skip others, depending on `on_error`."""
        field = self.hparams["label_field"]
        columns = {"image": index.offset, "label": index.label}
        if field is None or split == "predict":
            del columns["label"]
        for part, values in columns.items():
            lacking = rows[values[rows] < 0]
            if not len(lacking):
                continue
            shown = ", ".join(printable(index.names[row], lines=False) for row in lacking[:_SHOWN])
            shown += ", ..." if len(lacking) > _SHOWN else ""
            problem = f"{len(lacking):,} of {len(rows):,} samples have no {part}: {shown}"
            if self.hparams["on_error"] == "raise":
                option = argument("image_field", self)
                if part == "label":
                    option = (
                        f"{setting('label_field', field, self)}: an extension or a field of KEY.json, or null for none"
                    )
                raise ValueError(f"{problem} ({option}; {setting('on_error', 'skip', self)} skips them).")
            log.warning("%s. They are skipped.", problem)
            rows = rows[values[rows] >= 0]
        return rows


def _shown(path: Path) -> str:
    return printable(str(path), lines=False)


def _find_shards(root: Path) -> list[str]:
    """Return the tar files below a folder, relative to it, sorted."""
    if not root.is_dir():
        raise FileNotFoundError(f"folder {root.absolute()} not found: set {argument('root')}.")
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    paths = [path for path in paths if not any(map(is_clutter, path.split("/")))]
    if compressed := [path for path in paths if path.lower().endswith(COMPRESSED)]:
        raise ValueError(
            f"{_shown(root / compressed[0])} is compressed, so images cannot be read by position: decompress it to a "
            ".tar file (the images are already compressed)."
        )
    shards = [path for path in paths if path.lower().endswith(".tar")]
    if not shards:
        raise FileNotFoundError(f"there are no tar files in {root.absolute()}: set {argument('root')}.")
    return shards


def _splits(root: Path, shards: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the tar files of each split, or of `all` if none is named after a split."""
    by_split: dict[str, list[int]] = {}
    for number, shard in enumerate(shards):
        named = (
            split for part in reversed(shard.split("/")) if (split := split_in(part))
        )  # the file name takes precedence
        split = "predict" if shard.lower().startswith("predict") else next(named, None)
        by_split.setdefault(split or "all", []).append(number)
    if "all" in by_split and by_split.keys() & {"train", "val", "test"}:
        raise ValueError(
            f"{_shown(root / shards[by_split['all'][0]])} belongs to no split, but other tar files are named after "
            "splits: name it train-*.tar, val-*.tar or test-*.tar."
        )
    if not by_split.keys() & {"all", "train"}:
        raise FileNotFoundError(f"{root.absolute()} contains no tar files for training: name them train-*.tar.")
    return by_split


def _classes(root: Path, index: ShardIndex, rows: dict[str, NDArray[np.int64]]) -> tuple[list[str], torch.Tensor]:
    """Return the class names, and the class number of each label text, followed by -1 for no label."""
    used = {split: {index.texts[number] for number in np.unique(index.label[part]) if number >= 0}
            for split, part in rows.items() if split != "predict"}  # fmt: skip
    listed = mask_class_names(root)
    names = listed or sorted(used.get("train", used.get("all", set())), key=numbers_first)
    number = {str(position): position for position in range(len(listed))} | {n: k for k, n in enumerate(names)}
    for split, texts in used.items():
        unknown = sorted(texts - number.keys(), key=numbers_first)
        if unknown and listed:
            hint = nearest(unknown[0], names)
            raise ValueError(f"{root / 'classes.txt'} has no class {unknown[0]!r}, a label of {split}{hint}")
        if unknown:
            raise ValueError(f"the {split} samples have classes without training images: {some_names(unknown)}.")
    return names, torch.tensor([*(number.get(text, -1) for text in index.texts), -1])
