"""Custom images listed in a table."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.base import Split
from datamodules.checks import check
from datamodules.classes import numbers_first, written_number
from datamodules.files import FileDataset, FilesDataModule
from lit_cv.annotations.annotators import Consolidation
from lit_cv.annotations.reading import class_name, file_cell, is_file, read_rows
from lit_cv.annotations.split_folders import SPLIT_NAMES
from lit_cv.annotations.tables import (
    SPLIT_COLUMN,
    check_texts,
    complete_names,
    find_split_column,
    report_odd_labels,
)
from lit_cv.annotations.votes import Votes
from lit_cv.errors import OptionError, argument, setting
from lit_cv.printable import printable
from lit_cv.spreadsheet import unescape_formula
from lit_cv.suggest import nearest

__all__ = ["CSVDataModule"]

log = logging.getLogger("lit_cv")

_MAX_SHOWN = 20  # names listed in a message
Table = list[dict[str, str]]


class CSVDataModule(FilesDataModule):
    """Custom images listed in a table, with a row for each image: path, label or labels, and optionally split.

    A single label column contains a class name, or several names joined by `label_separator`; several label columns
    contain 0 or 1 each. A row without a label is unlabeled: only modules that learn without labels train on it. If
    the table has no splits, images are split like those of a folder. Paths may be absolute or point outside `root`:
    the table is trusted, and its files are only read as images. Labels are text; if all are numbers, they are sorted
    by value, and writing a number in two ways (1 and 1.0) is an error.

    Paths may contain bytes that are not UTF-8, surrounding spaces and line breaks, and may lack the file suffix. All
    other cells are UTF-8 and stripped of spaces. Names that a spreadsheet would evaluate may be escaped by an
    apostrophe (`'=a.jpg`), as done by `escape_formulas` of `PredictionWriter` and `lit-cv agreement`: it is removed
    from labels and annotators, and from paths unless there is a file of that name.

    With `annotator_column`, an image has a row for each annotator. The votes are combined, and the agreement (Fleiss'
    kappa) and the most disputed images are logged.

    Args:
        path: The table: UTF-8, separated by commas or semicolons, with column names; tabs in a `.tsv` file.
        root: Folder that the paths are relative to; `None` uses that of the table.
        path_column: Column of the paths.
        label_columns: Column of the labels, or several columns of 0 and 1.
        label_separator: Separator of several labels in one column; `None` for one label per image.
        split_column: Column with `train`, `val`, `test` or `predict`, used if the table has it. A column with another
            name than `split` must exist.
        annotator_column: Column with the annotator of each row; `None` for one row per image.
        consensus: How to combine annotators' labels: `majority` (the class with the most votes, the first one on
            ties), `soft` (training uses vote shares, validation and test the majority), or `dawid_skene` (the most
            likely class, with annotators weighted by their estimated reliability).
        empty_labels: Meaning of an empty cell in multi-label data: `none` of the classes, or `unlabeled`. `None` means
            `none` with a warning for a single column, and an error for several columns.
        unseen_classes: How to treat classes without training images: `raise` stops the run; `skip` drops them, along
            with val and test images that have no other label.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If the table or an image is missing.
        ValueError: If a column is missing, or a value is invalid.
    """

    def __init__(
        self,
        path: str = "images.csv",
        root: str | None = None,
        path_column: str = "path",
        label_columns: list[str] = ["label"],  # noqa: B006 - shown by the command line, never modified
        label_separator: str | None = None,
        split_column: str = SPLIT_COLUMN,
        annotator_column: str | None = None,
        consensus: Consolidation = "majority",
        empty_labels: Literal["none", "unlabeled"] | None = None,
        unseen_classes: Literal["raise", "skip"] = "raise",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check(
            self,
            "consensus",
            consensus,
            consensus in ("majority", "soft", "dawid_skene"),
            "majority, soft or dawid_skene",
        )
        check(
            self, "empty_labels", empty_labels, empty_labels in (None, "none", "unlabeled"), "none, unlabeled or null"
        )
        check(self, "unseen_classes", unseen_classes, unseen_classes in ("raise", "skip"), "'raise' or 'skip'")
        if empty_labels is not None and label_separator is None and len(label_columns) < 2:
            raise ValueError(
                "empty_labels needs several labels per image (with one label, an empty cell means unlabeled): set "
                f"{argument('label_separator', self)} or remove {argument('empty_labels', self)}."
            )
        if annotator_column is not None and (len(label_columns) > 1 or label_separator is not None):
            raise OptionError(
                self,
                "annotator_column",
                annotator_column,
                "it needs one label per image; remove label_separator and further label columns",
            )
        if annotator_column is None and consensus != "majority":
            name = argument("annotator_column", self)
            raise OptionError(
                self, "consensus", consensus, f"it needs several annotators; name their column with {name}"
            )
        self._table: Table = []
        self._classes: list[str] = []
        self._unseen: set[str] = set()
        self.votes: Votes | None = None

    def load(self, split: Split) -> FileDataset | None:
        """Return the files of a split."""
        h = self.hparams
        if not self._table:
            if h["annotator_column"] is not None:
                self.votes = self.read_votes()
                log.info("%s", self.votes)
            else:
                self._table = self._read()
                self._classes = self._find_classes()
                self._check_repeated()
                self._report_empty()
        if h["split_column"] not in self._table[0]:
            return None if split in ("val", "predict") else self.split_pool(self._dataset(self._table, split), split)
        rows = [row for row in self._table if self._split_of(row) == split and not self._only_unseen(row)]
        return self.readable(self._dataset(rows, split)) if rows or split == "train" else None

    def _read(self) -> Table:
        h = self.hparams
        path = Path(h["path"]).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"table {path.absolute()} not found: set {argument('path', self)}.")
        table = read_rows(path, files=(h["path_column"],))
        if not table:
            raise ValueError(f"{printable(str(path), lines=False)} has no rows.")
        required = [("path_column", h["path_column"]), *(("label_columns", name) for name in h["label_columns"])]
        for column, name in [*required, ("annotator_column", h["annotator_column"])]:
            if name is not None and name not in table[0]:
                columns = printable(", ".join(table[0]), lines=False)
                shown = printable(str(path), lines=False)
                raise ValueError(
                    f"{shown} has no column {name!r} ({argument(column, self)}){nearest(name, table[0])} "
                    f"Its columns: {columns}."
                )
        others = [name for name in table[0] if name not in (h["path_column"], *h["label_columns"])]
        find_split_column(table, str(path), h["split_column"], others, self)
        named = [name for name in (*h["label_columns"][:1], h["annotator_column"]) if name is not None]
        for row in table:
            row[h["path_column"]] = file_cell(row[h["path_column"]], self._root())
            row.update({name: class_name(unescape_formula(row[name])) for name in named})
        complete_names(table, h["path_column"], self._root())
        check_texts(table, str(path), named)
        return table

    def _root(self) -> Path:
        return Path(self.hparams["root"] or Path(self.hparams["path"]).parent).expanduser()

    def _check_repeated(self) -> None:
        """Raise if an image has several labels, as it could be trained as one class and tested as another."""
        h, seen = self.hparams, dict[str, tuple[str, ...]]()
        for row in self._table:
            labels = tuple(row[name] for name in h["label_columns"])
            if seen.setdefault(file := os.path.normpath(row[h["path_column"]]), labels) != labels:
                raise ValueError(
                    f"{h['path']}: {row[h['path_column']]!r} has the label {', '.join(seen[file])!r} "
                    f"and the label {', '.join(labels)!r}. Name the column of the annotators "
                    f"({argument('annotator_column', self)}), or keep one row per image."
                )

    def read_votes(self) -> Votes:
        """Read the table and combine the rows of each image."""
        h = self.hparams
        self._table = self._read()
        self._classes = self._find_classes()
        path, split = h["path_column"], h["split_column"]
        first: dict[str, dict[str, str]] = {}
        spelling: dict[str, str] = {}
        label_by_vote: dict[tuple[str, str], str] = {}
        cast = []
        for row in self._table:
            row[path] = spelling.setdefault(os.path.normpath(row[path]), row[path])
            other = first.setdefault(row[path], row)
            if row.get(split, "").lower() != other.get(split, "").lower():
                raise ValueError(
                    f"{h['path']}: {row[path]!r} is in both {other[split]!r} and {row[split]!r}. Keep one."
                )
            labels = self._labels_of(row)
            if labels and not (row.get(split) and self._split_of(row) == "predict"):
                vote = (row[path], row[h["annotator_column"]])
                if label_by_vote.get(vote, labels[0]) != labels[0]:
                    raise ValueError(
                        f"{h['path']}: {vote[1]!r} labels {vote[0]!r} both {label_by_vote[vote]!r} and {labels[0]!r}: "
                        "keep one row per annotator and image."
                    )
                if vote in label_by_vote:
                    continue
                label_by_vote[vote] = labels[0]
                cast.append((*vote, labels[0]))
        self._table = list(first.values())
        return Votes.of(list(first), cast, self._classes, h["consensus"])

    def _split_of(self, row: Mapping[str, str]) -> Split:
        column = self.hparams["split_column"]
        named: Any = {**SPLIT_NAMES, "predict": "predict"}.get(row[column].strip().lower())
        if named is None:
            raise ValueError(
                f"column {column!r} of {self.hparams['path']} contains {row[column]!r}: "
                "use train, val, test or predict."
            )
        split: Split = named
        return split

    def _labels_of(self, row: Mapping[str, str]) -> list[str]:
        text, separator = row[self.hparams["label_columns"][0]], self.hparams["label_separator"]
        parts = [part.strip() for part in (text.split(separator) if separator else [text]) if part.strip()]
        return [part for part in parts if part not in self._unseen]

    def _only_unseen(self, row: Mapping[str, str]) -> bool:
        """Return whether all labels of a row are of skipped classes."""
        text = row[self.hparams["label_columns"][0]]
        return bool(self._unseen) and self.votes is None and bool(text) and not self._labels_of(row)

    def _report_empty(self) -> None:
        """Log how rows without a label are treated in multi-label data."""
        h = self.hparams
        if h["label_separator"] is None or h["annotator_column"] is not None or len(h["label_columns"]) > 1:
            return
        empty = sum(not row[h["label_columns"][0]].strip() for row in self._table)
        if empty:
            meaning = "unlabeled" if h["empty_labels"] == "unlabeled" else "labeled with none of the classes"
            hint = "" if h["empty_labels"] else f" (choose with {setting('empty_labels', 'none', self)} or unlabeled)"
            level = logging.INFO if h["empty_labels"] else logging.WARNING
            log.log(level, "%d of %d images have an empty label: %s%s.", empty, len(self._table), meaning, hint)

    def _find_classes(self) -> list[str]:
        h = self.hparams
        if len(h["label_columns"]) > 1:
            return self._columns_with_images()
        split = h["split_column"] in self._table[0]
        by_split: dict[str, set[str]] = {"train": set()}
        for row in self._table:
            by_split.setdefault(self._split_of(row) if split else "train", set()).update(self._labels_of(row))
        for name in ("val", "test"):
            if (unknown := sorted(by_split.get(name, set()) - by_split["train"])) and h["unseen_classes"] == "raise":
                raise ValueError(
                    f"the {name} rows of {h['path']} have classes without training images: "
                    f"{_shown(unknown)} ({setting('unseen_classes', 'skip', self)} skips them)."
                )
            self._unseen.update(unknown)
        if self._unseen:
            count = sum(self._only_unseen(row) for row in self._table)
            text = "Classes without training images are skipped, along with %d images that have no other class: %s."
            log.warning(text, count, _shown(sorted(self._unseen)))
        self._check_numbers(by_split["train"])
        report_odd_labels(h["path"], by_split["train"])
        return sorted(by_split["train"], key=numbers_first)

    def _columns_with_images(self) -> list[str]:
        """Return the label columns; with `unseen_classes="skip"`, only those with training images."""
        h = self.hparams
        if h["unseen_classes"] == "raise":
            return list(h["label_columns"])
        split = h["split_column"] in self._table[0]
        training = [row for row in self._table if not split or self._split_of(row) == "train"]
        seen = [n for n in h["label_columns"] if any(_flag(row[n], n, h, empty=0.0) > 0 for row in training)]
        if unseen := [name for name in h["label_columns"] if name not in seen]:
            log.warning("Classes without training images are skipped: %s.", _shown(unseen))
        return seen

    def _check_numbers(self, names: set[str]) -> None:
        """Raise if a number is written in two ways, such as 1 and 1.0 in a table from several programs."""
        first: dict[float, str] = {}
        for name in sorted(names):
            value = written_number(name)
            if value is not None and first.setdefault(value, name) != name:
                raise ValueError(
                    f"{self.hparams['path']} writes the label {value:g} in two ways, {first[value]!r} and {name!r}: "
                    "these would be two classes. Use one of them."
                )

    def _dataset(self, rows: Sequence[Mapping[str, str]], split: Split) -> FileDataset:
        h = self.hparams
        root = self._root()
        paths = [row[h["path_column"]] for row in rows]
        missing = [path for path in paths if not is_file(root / path)]
        if missing and h["on_error"] == "raise":
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} images are not in {root.absolute()}, starting with {missing[0]!r}: "
                f"set {argument('root', self)}."
            )
        labels = [-1] * len(rows) if split == "predict" else self._encode(rows)
        dataset = FileDataset(root, paths, labels, self._classes, channels=h["channels"])
        dataset.soft_labels = dataset.labels.ndim == 2 and self.votes is not None
        return dataset

    def _encode(self, rows: Sequence[Mapping[str, str]]) -> Any:
        """Return class numbers, -1 without a label; or rows of 0 and 1 for multi-label data."""
        h = self.hparams
        if self.votes is not None:
            return np.array([self.votes.label(row[h["path_column"]], h["consensus"] == "soft") for row in rows])
        number = {name: index for index, name in enumerate(self._classes)}
        empty = {"none": 0.0, "unlabeled": -1.0}.get(h["empty_labels"])
        if len(h["label_columns"]) > 1:
            values = [[_flag(row[column], column, h, empty) for column in self._classes] for row in rows]
            return np.array(values, dtype=np.float32).reshape(len(rows), len(self._classes))
        if h["label_separator"] is None:
            return [number[labels[0]] if (labels := self._labels_of(row)) else -1 for row in rows]
        encoded = np.zeros((len(rows), len(number)), dtype=np.float32)
        for position, row in enumerate(rows):
            labels = self._labels_of(row)
            encoded[position, [number[name] for name in labels]] = 1
            if not labels and empty is not None:
                encoded[position] = empty
        return encoded


def _flag(text: str, column: str, options: Mapping[str, Any], empty: float | None = None) -> float:
    if not text.strip() and empty is not None:
        return empty
    flags = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0, "1.0": 1.0, "0.0": 0.0}
    if text.lower() not in flags:
        hint = "" if text.strip() else f" (set {argument('empty_labels')} for empty cells)"
        raise ValueError(
            f"column {column!r} of {options['path']} contains {text!r}: use 0 or 1 in several label columns{hint}."
        )
    return flags[text.lower()]


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"{printable(', '.join(names[:_MAX_SHOWN]), lines=False)}{more}"
