"""Your own images, listed in a table."""

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

_MOST_SHOWN = 20  # names that a message lists
Table = list[dict[str, str]]


class CSVDataModule(FilesDataModule):
    """Your own images, listed in a table with a row for each: its path, its label or labels, perhaps its split.

    One label column holds a class name, or several names joined by `label_separator`; several label columns hold
    0 or 1 each. A row without a label is unlabeled: only modules that learn without labels train on it. Images
    that the table does not assign to splits are split like those of a folder. Paths may be absolute or lead out of
    `root`: the table is taken to be your own, and its files are only ever read, as images. Labels are text; labels
    that are all numbers are sorted by value, and the same number written in two ways (1 and 1.0) is an error.

    Paths may hold bytes that are not UTF-8, spaces around them and line ends, and may lack the suffix of their files.
    All other cells are UTF-8, and spaces around them do not count. Names that a spreadsheet would compute may have an
    apostrophe before them (`'=a.jpg`), as `escape_formulas` of `PredictionWriter` and `lit-cv agreement` writes them:
    it is left out of labels and annotators, and of paths unless there is a file of that name.

    With `annotator_column` an image has a row for each annotator. Their votes are brought together, the agreement
    (Fleiss' kappa) is told, and the most disputed images are listed.

    Args:
        path: The table: UTF-8, commas or semicolons, a line of column names; tabs in a file named `.tsv`.
        root: Folder that the paths are relative to; `None` takes that of the table.
        path_column: Column of the paths.
        label_columns: Column of the labels, or several columns of 0 and 1.
        label_separator: What joins several labels in one column; `None` for one label an image.
        split_column: Column that says `train`, `val`, `test` or `predict`; used where the table has it. One that is
            not named `split` must be there.
        annotator_column: Column that names the annotator of each row; `None` for one row an image.
        consensus: What several annotators' labels come to: `majority` (the class with the most votes, of equals the
            first), `soft` (training learns the shares of the votes, validation and test take the majority), or
            `dawid_skene` (the likeliest class, annotators weighed by how reliable they turn out to be).
        empty_labels: What an empty cell means where images have several labels: `none` of the classes, or `unlabeled`.
            `None` takes it for `none` in one column, with a warning, and for an error in several columns.
        unseen_classes: What is done about classes without training images, which the long tail of a table has: `raise`
            stops the run; `skip` leaves them out, together with images of val and test that have no other label.
        **kwargs: Arguments of `FilesDataModule` and `BaseDataModule`.

    Raises:
        FileNotFoundError: If the table or an image is missing.
        ValueError: If a column is missing, or a value is none of those allowed.
    """

    def __init__(
        self,
        path: str = "images.csv",
        root: str | None = None,
        path_column: str = "path",
        label_columns: list[str] = ["label"],  # noqa: B006 - the command line shows it, and nothing changes it
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
                "empty_labels is for several labels an image, and an image of one label without it is unlabeled: set "
                f"{argument('label_separator', self)}, or leave {argument('empty_labels', self)} out."
            )
        if annotator_column is not None and (len(label_columns) > 1 or label_separator is not None):
            raise OptionError(
                self,
                "annotator_column",
                annotator_column,
                "it is for one label an image; leave label_separator and more columns out",
            )
        if annotator_column is None and consensus != "majority":
            name = argument("annotator_column", self)
            raise OptionError(
                self, "consensus", consensus, f"it is of several annotators; name their column with {name}"
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
            raise FileNotFoundError(f"there is no table {path.absolute()}: set {argument('path', self)}.")
        table = read_rows(path, files=(h["path_column"],))
        if not table:
            raise ValueError(f"{printable(str(path), lines=False)} has no rows.")
        asked = [("path_column", h["path_column"]), *(("label_columns", name) for name in h["label_columns"])]
        for column, name in [*asked, ("annotator_column", h["annotator_column"])]:
            if name is not None and name not in table[0]:
                columns = printable(", ".join(table[0]), lines=False)
                shown = printable(str(path), lines=False)
                raise ValueError(
                    f"{shown} has no column {name!r} ({argument(column, self)}){nearest(name, table[0])} "
                    f"It has: {columns}."
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
        """Refuse one image with several labels: it would be trained on as one class and tested as another."""
        h, seen = self.hparams, dict[str, tuple[str, ...]]()
        for row in self._table:
            labels = tuple(row[name] for name in h["label_columns"])
            if seen.setdefault(file := os.path.normpath(row[h["path_column"]]), labels) != labels:
                raise ValueError(
                    f"{h['path']} gives {row[h['path_column']]!r} the label {', '.join(seen[file])!r} "
                    f"and the label {', '.join(labels)!r}: name the column of the annotators "
                    f"({argument('annotator_column', self)}), or leave one row of each image."
                )

    def read_votes(self) -> Votes:
        """Read the table and bring the rows of each image together."""
        h = self.hparams
        self._table = self._read()
        self._classes = self._find_classes()
        path, split = h["path_column"], h["split_column"]
        first: dict[str, dict[str, str]] = {}
        spelling: dict[str, str] = {}
        said: dict[tuple[str, str], str] = {}
        cast = []
        for row in self._table:
            row[path] = spelling.setdefault(os.path.normpath(row[path]), row[path])
            other = first.setdefault(row[path], row)
            if row.get(split, "").lower() != other.get(split, "").lower():
                raise ValueError(f"{h['path']} puts {row[path]!r} into {other[split]!r} and into {row[split]!r}.")
            labels = self._labels_of(row)
            if labels and not (row.get(split) and self._split_of(row) == "predict"):
                vote = (row[path], row[h["annotator_column"]])
                if said.get(vote, labels[0]) != labels[0]:
                    raise ValueError(
                        f"{h['path']}: {vote[1]!r} says both {said[vote]!r} and {labels[0]!r} of {vote[0]!r}: leave "
                        "one row of each annotator and image."
                    )
                if vote in said:
                    continue
                said[vote] = labels[0]
                cast.append((*vote, labels[0]))
        self._table = list(first.values())
        return Votes.of(list(first), cast, self._classes, h["consensus"])

    def _split_of(self, row: Mapping[str, str]) -> Split:
        column = self.hparams["split_column"]
        found: Any = {**SPLIT_NAMES, "predict": "predict"}.get(row[column].strip().lower())
        if found is None:
            raise ValueError(
                f"column {column!r} of {self.hparams['path']} says {row[column]!r}: "
                "allowed are train, val, test and predict."
            )
        split: Split = found
        return split

    def _labels_of(self, row: Mapping[str, str]) -> list[str]:
        text, separator = row[self.hparams["label_columns"][0]], self.hparams["label_separator"]
        parts = [part.strip() for part in (text.split(separator) if separator else [text]) if part.strip()]
        return [part for part in parts if part not in self._unseen]

    def _only_unseen(self, row: Mapping[str, str]) -> bool:
        """Tell whether all labels of a row are of classes that are left out."""
        given = row[self.hparams["label_columns"][0]]
        return bool(self._unseen) and self.votes is None and bool(given) and not self._labels_of(row)

    def _report_empty(self) -> None:
        """Say what rows without a label mean where images may have several."""
        h = self.hparams
        if h["label_separator"] is None or h["annotator_column"] is not None or len(h["label_columns"]) > 1:
            return
        empty = sum(not row[h["label_columns"][0]].strip() for row in self._table)
        if empty:
            what = "unlabeled" if h["empty_labels"] == "unlabeled" else "labeled, with none of the classes"
            chosen = "" if h["empty_labels"] else f" ({setting('empty_labels', 'none', self)} or unlabeled says which)"
            level = logging.INFO if h["empty_labels"] else logging.WARNING
            log.log(level, "%d of %d images have an empty label: %s%s.", empty, len(self._table), what, chosen)

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
                    f"{_shown(unknown)} ({setting('unseen_classes', 'skip', self)} leaves them out)."
                )
            self._unseen.update(unknown)
        if self._unseen:
            count = sum(self._only_unseen(row) for row in self._table)
            text = "Classes without training images are left out, and %d images that have no other: %s."
            log.warning(text, count, _shown(sorted(self._unseen)))
        self._check_numbers(by_split["train"])
        report_odd_labels(h["path"], by_split["train"])
        return sorted(by_split["train"], key=numbers_first)

    def _columns_with_images(self) -> list[str]:
        """Return the label columns, without those of no training image where these are to be left out."""
        h = self.hparams
        if h["unseen_classes"] == "raise":
            return list(h["label_columns"])
        split = h["split_column"] in self._table[0]
        training = [row for row in self._table if not split or self._split_of(row) == "train"]
        seen = [n for n in h["label_columns"] if any(_flag(row[n], n, h, empty=0.0) > 0 for row in training)]
        if unseen := [name for name in h["label_columns"] if name not in seen]:
            log.warning("Classes without training images are left out: %s.", _shown(unseen))
        return seen

    def _check_numbers(self, names: set[str]) -> None:
        """Refuse one number in two spellings, which a table half written by a program has: 1 and 1.0."""
        first: dict[float, str] = {}
        for name in sorted(names):
            value = written_number(name)
            if value is not None and first.setdefault(value, name) != name:
                raise ValueError(
                    f"{self.hparams['path']} writes the label {value:g} in two ways, {first[value]!r} and {name!r}: "
                    "these would be two classes. Write it in one."
                )

    def _dataset(self, rows: Sequence[Mapping[str, str]], split: Split) -> FileDataset:
        h = self.hparams
        root = self._root()
        paths = [row[h["path_column"]] for row in rows]
        missing = [path for path in paths if not is_file(root / path)]
        if missing and h["on_error"] == "raise":
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} images are not in {root.absolute()}, {missing[0]!r} first: "
                f"set {argument('root', self)}."
            )
        labels = [-1] * len(rows) if split == "predict" else self._encode(rows)
        dataset = FileDataset(root, paths, labels, self._classes, channels=h["channels"])
        dataset.soft_labels = dataset.labels.ndim == 2 and self.votes is not None
        return dataset

    def _encode(self, rows: Sequence[Mapping[str, str]]) -> Any:
        """Return class numbers, -1 where there is no label; or a row of 0 and 1 for several labels an image."""
        h = self.hparams
        if self.votes is not None:
            return np.array([self.votes.label(row[h["path_column"]], h["consensus"] == "soft") for row in rows])
        number = {name: index for index, name in enumerate(self._classes)}
        empty = {"none": 0.0, "unlabeled": -1.0}.get(h["empty_labels"])
        if len(h["label_columns"]) > 1:
            values = [[_flag(row[column], column, h, empty) for column in self._classes] for row in rows]
            return np.array(values, dtype=np.float32).reshape(len(rows), len(self._classes))
        if h["label_separator"] is None:
            return [number[found[0]] if (found := self._labels_of(row)) else -1 for row in rows]
        several = np.zeros((len(rows), len(number)), dtype=np.float32)
        for position, row in enumerate(rows):
            labels = self._labels_of(row)
            several[position, [number[name] for name in labels]] = 1
            if not labels and empty is not None:
                several[position] = empty
        return several


def _flag(text: str, column: str, options: Mapping[str, Any], empty: float | None = None) -> float:
    if not text.strip() and empty is not None:
        return empty
    flags = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0, "1.0": 1.0, "0.0": 0.0}
    if text.lower() not in flags:
        hint = "" if text.strip() else f" ({argument('empty_labels')} says what an empty cell means)"
        raise ValueError(
            f"column {column!r} of {options['path']} says {text!r}: one of several label columns holds 0 or 1{hint}."
        )
    return flags[text.lower()]


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return f"{printable(', '.join(names[:_MOST_SHOWN]), lines=False)}{more}"
