"""Custom images in a folder written by `save_to_disk` of Hugging Face `datasets`."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules.arrow_files import ArrowFiles, SavedSet, read_json, require_pyarrow
from datamodules.base import Split
from datamodules.classes import numbers_first
from datamodules.container_dataset import ContainerDataset
from datamodules.files import FileDataset, FilesDataModule, some_names
from datamodules.images import UnreadableImageError, decode_image, read_image
from lit_cv.annotations.split_folders import SPLIT_NAMES
from lit_cv.errors import OptionError, argument
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["ArrowDataset", "HFDatasetDataModule"]

log = logging.getLogger("lit_cv")

_SAVE = 'python -c \'from datasets import load_dataset; load_dataset("{name}").save_to_disk("FOLDER")\''


class _RowNames(Sequence[str]):
    """Names of rows, such as `train/17`, which take no memory.

    Args:
        prefix: What precedes the number.
        count: Number of rows.
    """

    def __init__(self, prefix: str, count: int) -> None:
        self._prefix, self._count = prefix, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(f"row {index} is out of range for {self._count}")
        return f"{self._prefix}{index}"


class ArrowDataset(ContainerDataset):
    """Images in Arrow files, mapped into memory, each decoded when it is fetched.

    Args:
        arrow: The column of the images.
        prefix: Start of the images' names, followed by their row: `train/`.
        labels: (N,) integers, -1 where unlabeled.
        class_names: Names of the classes.
        channels: 3 for color, 1 for gray.
    """

    def __init__(
        self,
        arrow: ArrowFiles,
        prefix: str,
        labels: Any,
        class_names: Sequence[str] = (),
        channels: Literal[1, 3] = 3,
    ) -> None:
        super().__init__(arrow.root, _RowNames(prefix, len(arrow)), labels, class_names, channels=channels)
        self.arrow = arrow
        self.check_name = f"checked_arrow_{arrow.column}"

    def containers(self) -> list[str]:
        """Return the Arrow files."""
        return self.arrow.files

    def sources(self) -> list[str]:
        """Return the Arrow files, and image files that they refer to."""
        return [*self.arrow.files, *self.arrow.paths()]

    def rows_in(self, container: str) -> list[int]:
        """Return the rows in an Arrow file."""
        number = self.arrow.files.index(container)
        return list(range(int(self.arrow.starts[number]), int(self.arrow.starts[number + 1])))

    def decode(self, row: int, size: int) -> Tensor:
        """Return the image of a row, (channels, size, size) uint8."""
        content, path = self.arrow.image(row)
        name = f"{self.root}/{self.paths[row]}" + (f" ({path})" if path else "")
        if content is not None:
            return decode_image(bytearray(content), name, size, self.channels, self.value_range)
        if path is None:
            raise UnreadableImageError.of(name, "it is missing: neither its bytes nor a path are stored")
        if "://" in path:
            raise UnreadableImageError.of(name, "only its address is stored: save the data set with its images")
        return read_image(self.root / path, size, self.channels, self.value_range)


class HFDatasetDataModule(FilesDataModule):
    """Custom images in a folder written by `save_to_disk` of Hugging Face `datasets`.

    A `DatasetDict` has the splits `train`, `validation` (or `val`, `valid`, `dev`), `test` and `predict`; others are
    ignored. A missing validation split is held out of the training images. The images of a single `Dataset` are split
    like those of a folder, also for testing.

    Images are encoded files within the Arrow files, which are mapped into memory and read by position: every epoch has
    a new order of the entire set, and a run resumes exactly in the middle of an epoch. A path without content is read
    relative to `root`. An image is named by its split and row: `train/17` is `dataset["train"][17]`.

    Only pyarrow is needed, not `datasets`. The folder is read as data: no code in it or for it is run, and nothing is
    downloaded. Streams (`IterableDataset`) are refused, as they cannot be read by position.

    Args:
        root: The folder.
        image_column: Column of the images; `None` uses the only one of the type `Image`.
        label_column: Column of the classes: of the type `ClassLabel`, of lists of it (several labels per image), or of
            text or integers, whose classes are those of the training images. `None` uses the only one of the type
            `ClassLabel` or of lists of it; without any, no image has a label. -1 and missing values are unlabeled.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If `root` is missing or was not written by `save_to_disk`.
        ImportError: If pyarrow is not installed.
        TypeError: If `root` is a data set instead of a folder.
        ValueError: If a column does not exist, an Arrow file is broken, or the splits have other classes.
    """

    def __init__(
        self, root: str = "data", image_column: str | None = None, label_column: str | None = None, **kwargs: Any
    ) -> None:
        _check_root(root)
        super().__init__(**kwargs)
        require_pyarrow()
        self._datasets: dict[str, ArrowDataset] = {}

    def load(self, split: Split) -> FileDataset | None:
        """Return the images of a split."""
        if not self._datasets:
            self._datasets = self._read()
        if "all" in self._datasets:
            return self.split_pool(self._datasets["all"], split) if split in ("train", "test") else None
        dataset = self._datasets.get(split)
        return None if dataset is None else self.readable(dataset)

    def _read(self) -> dict[str, ArrowDataset]:
        h = self.hparams
        root = Path(h["root"]).expanduser()
        sets = _saved_sets(root)
        training = sets.get("train", sets.get("all"))
        if training is None:
            raise FileNotFoundError(f"{root.absolute()} has no training images: name a split train.")
        image = self._column(training, "image_column", "Image")
        if image is None:
            columns = _listed(training.features)
            raise ValueError(
                f"{_shown(root)} has no column of the type Image: choose one with {argument('image_column', self)} "
                f"from {columns}."
            )
        label = self._column(training, "label_column", "ClassLabel")
        if label is None:
            self._report_no_labels(training)
        return self._with_labels(root, sets, image, label)

    def _column(self, saved: SavedSet, option: str, kind: str) -> str | None:
        """Return the column that an option names, or else the only one of a type."""
        name, columns = self.hparams[option], saved.columns_of(kind)
        if name is not None:
            if name not in saved.features:
                hint = nearest(name, list(saved.features))
                allowed = f"must be a column of {_shown(saved.folder)}: {_listed(saved.features)}{hint}"
                raise OptionError(self, option, name, allowed)
            return str(name)
        if len(columns) > 1:
            raise ValueError(
                f"{_shown(saved.folder)} has several columns of the type {kind} ({_listed(columns)}): choose one with "
                f"{argument(option, self)}."
            )
        return columns[0] if columns else None

    @rank_zero_only
    def _report_no_labels(self, saved: SavedSet) -> None:
        log.warning(
            "%s has no column of the type ClassLabel, so no image has a label. If a column of text or integers holds "
            "the classes, choose it with %s: %s.",
            _shown(saved.folder), argument("label_column", self), _listed(saved.features),
        )  # fmt: skip

    def _with_labels(
        self, root: Path, sets: dict[str, SavedSet], image: str, label: str | None
    ) -> dict[str, ArrowDataset]:
        for split, saved in sets.items():
            needed = [image] if label is None or split == "predict" else [image, label]
            if lacking := [name for name in needed if name not in saved.features]:
                raise ValueError(f"{_shown(saved.folder)} lacks the column {lacking[0]!r}, which the training set has.")
        arrows = {
            split: ArrowFiles(root, [(saved.folder / file).relative_to(root).as_posix() for file in saved.files], image)
            for split, saved in sets.items()
        }
        names: list[str] = []
        labels: dict[str, Any] = {}
        for split in sorted(sets, key=lambda split: split not in ("train", "all")):
            saved, arrow = sets[split], arrows[split]
            if label is None or split == "predict":
                labels[split] = [-1] * len(arrow)
            elif "names" in saved.label_type(label)[0]:
                names = names or _class_names(saved, label)
                labels[split] = _numbers(saved, label, arrow.values(label), names)
            else:
                texts = [_text(saved, label, value) for value in arrow.values(label)]
                names = names or sorted({text for text in texts if text is not None}, key=numbers_first)
                labels[split] = _positions(texts, names, split)
        channels = self.hparams["channels"]
        return {
            split: ArrowDataset(arrow, _prefix(sets[split], root), labels[split], names, channels)
            for split, arrow in arrows.items()
        }


def _shown(path: Path) -> str:
    return printable(str(path), lines=False)


def _listed(names: Any) -> str:
    return some_names(list(names))


def _prefix(saved: SavedSet, root: Path) -> str:
    return "" if saved.folder == root else f"{saved.folder.name}/"


def _check_root(root: object) -> None:
    """Raise if the folder is instead a data set, perhaps a stream."""
    if isinstance(root, str):
        return
    kind = type(root).__name__
    if kind.startswith("Iterable"):
        problem = "a stream cannot be read by position, so no run could resume exactly: load it without streaming, and"
    else:
        problem = "give the folder as a string. For a data set in memory"
    raise TypeError(f"root is a {kind}, but must be a folder; {problem} save it by save_to_disk(FOLDER).")


def _saved_sets(root: Path) -> dict[str, SavedSet]:
    """Return the sets in a folder by split, or a single one as `all`.

    Raises:
        FileNotFoundError: If the folder is missing, or was not written by `save_to_disk`.
    """
    where = argument("root")
    if not root.is_dir():
        name = root.as_posix() if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", root.as_posix()) else "NAME"
        shown = printable(str(root.absolute()), lines=False)
        raise FileNotFoundError(
            f"folder {shown} not found: set {where}. A data set of the Hub is saved once into a folder: "
            f"{_SAVE.format(name=name)}."
        )
    if (root / "state.json").is_file():
        saved = SavedSet.read(root)
        return {"all": saved}
    if not (root / "dataset_dict.json").is_file():
        raise FileNotFoundError(
            f"{_shown(root.absolute())} was not written by save_to_disk (it has neither state.json nor "
            f"dataset_dict.json): {_SAVE.format(name='NAME')}. Folders of Parquet files or of the "
            "cache of `datasets` are not read."
        )
    listed = read_json(root / "dataset_dict.json").get("splits")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if outside := [name for name in names if Path(name).name != name or name == ".."]:
        raise ValueError(f"{_shown(root)}/dataset_dict.json names a folder outside it: {printable(outside[0])!r}.")
    folders: dict[str, str] = {}
    ignored = []
    for name in names:
        split = "predict" if name.lower() == "predict" else SPLIT_NAMES.get(name.lower())
        if split is None or split in folders:
            ignored.append(name)
        else:
            folders[split] = name
    if ignored:
        rank_zero_only(log.warning)("%s: splits that are ignored: %s.", _shown(root), some_names(ignored))
    return {split: SavedSet.read(root / name) for split, name in folders.items()}


def _class_names(saved: SavedSet, label: str) -> list[str]:
    """Return the class names of a column of the type `ClassLabel`."""
    names = saved.label_type(label)[0].get("names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{_shown(saved.folder)}/dataset_info.json has no list of class names for {label!r}.")
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_shown(saved.folder)}/dataset_info.json names the class {printable(repeated)!r} twice.")
    return names


def _numbers(saved: SavedSet, label: str, values: list[Any], names: list[str]) -> Any:
    """Return class numbers in the order of the training classes, -1 for none; of lists, rows of 0 and 1."""
    numbers = {name: number for number, name in enumerate(names)}
    split_names = _class_names(saved, label)
    if different := sorted(set(split_names) ^ numbers.keys()):
        raise ValueError(
            f"{_shown(saved.folder)} and the training set have different classes in {label!r}: only one of them has "
            f"{some_names(different)}."
        )

    def number(value: object) -> int:
        if value is None or value == -1:
            return -1
        if isinstance(value, int) and 0 <= value < len(names):
            return numbers[split_names[value]]
        shown = printable(repr(value), lines=False)[:100]
        raise ValueError(
            f"{_shown(saved.folder)} has the label {shown} in {label!r}, but {len(names)} classes, numbered from 0."
        )

    if not saved.label_type(label)[1]:
        return [number(value) for value in values]
    rows = np.zeros((len(values), len(names)), np.int8)
    for row, value in zip(rows, values, strict=True):
        chosen = [-1] if value is None else [number(member) for member in value]
        row[[each for each in chosen if each >= 0]] = 1
        if -1 in chosen:
            row[:] = -1
    return rows


def _text(saved: SavedSet, label: str, value: object) -> str | None:
    """Return the class name that a value stands for, `None` for none."""
    if value is None:
        return None
    if not isinstance(value, str | int):
        raise ValueError(
            f"the column {label!r} of {_shown(saved.folder)} holds {type(value).__name__} values: classes are of the "
            "type ClassLabel or lists of it, text or integers, one for each image."
        )
    return str(value).strip() or None


def _positions(texts: list[str | None], names: list[str], split: str) -> list[int]:
    """Return the class numbers of texts, -1 for none."""
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := sorted({text for text in texts if text is not None} - numbers.keys(), key=numbers_first):
        raise ValueError(f"the {split} images have classes without training images: {some_names(unknown)}.")
    return [-1 if text is None else numbers[text] for text in texts]
