"""Division of images into splits: as in the checkpoint, with all paths to one file in the same split."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from datamodules.dataset import ImageDataset
from datamodules.separation import equal_contents, first_positions, shared_files
from datamodules.split_record import HIDDEN, SPLIT_CODES, UNKNOWN, Codes, SplitRecord
from datamodules.splits import Positions, hold_out, keep_labels
from lit_cv.errors import argument, setting
from lit_cv.printable import printable

__all__ = ["Division"]

log = logging.getLogger("lit_cv")

_SHOWN = 3  # images named in a message
_LEAST_SHARE = 0.5  # share of a record's images in another folder above which they count as the same data
_OPTIONS = ("val_fraction", "test_fraction", "split_seed")
_LABEL_OPTIONS = ("labels_per_class", "label_fraction", "label_seed", "split_seed")


class Division:
    """Divides the images of a DataModule into splits, following the splits of a checkpoint if there is one.

    Args:
        options: Arguments of the DataModule: fractions, seeds, `root` and `on_error`.
        record: Splits of the checkpoint that the Trainer is about to load; `None` for a new run.
    """

    def __init__(self, options: Mapping[str, Any], record: SplitRecord | None = None) -> None:
        root = options.get("root") or (os.path.dirname(str(options["path"])) if options.get("path") else None)
        self.root = None if root is None else Path(root).expanduser()
        self.options = {name: options.get(name) for name in (*_OPTIONS, *_LABEL_OPTIONS)}
        self.options["root"] = None if self.root is None else str(self.root.resolve())
        self.on_error = options.get("on_error")
        self.record = record
        self.held_out: set[str] = set()  # splits that were made here

    def names(self, dataset: ImageDataset) -> list[str]:
        """Return image names for records: relative to `root`, independently of the folder they are listed from."""
        names = [dataset.sample_name(index) for index in range(len(dataset))]
        files = dataset.files()
        if files is None or self.root is None or files[0] == self.root:
            return names
        try:
            folder = os.path.relpath(os.path.abspath(files[0]), os.path.abspath(self.root))
        except ValueError:  # another drive
            folder = os.path.abspath(files[0])
        return [f"{folder}/{name}" for name in names]

    def hold_out(
        self, dataset: ImageDataset, split: str, fraction: float, purpose: int = 0
    ) -> tuple[Positions, Positions]:
        """Return the positions of the images to keep, and of those held out for a split, both ascending.

        Images of the checkpoint stay in their splits; only new ones are divided. Several paths to one file stay
        together.

        Args:
            dataset: The images.
            split: `val` or `test`.
            fraction: Share of the labeled images to hold out.
            purpose: Number that makes choices with the same seed independent.
        """
        self.held_out.add(split)
        seed, strata = int(self.options["split_seed"] or 0), dataset.strata
        first = None if (states := dataset.file_states()) is None else first_positions(states)
        if first is not None:
            strata = strata.clone()
            strata[torch.from_numpy(first != np.arange(len(first)))] = -1  # a file counts once
        codes = self._codes(dataset)
        if codes is None:
            held = hold_out(strata, fraction, seed, purpose)[1]
        else:
            new = np.flatnonzero(codes == UNKNOWN)
            chosen = new[hold_out(strata[new], fraction, seed, purpose)[1]]
            held = np.union1d(np.flatnonzero(codes == SPLIT_CODES[split]), chosen)
        is_held = np.zeros(len(dataset), dtype=bool)
        is_held[held] = True
        if first is not None:
            is_held = is_held[first]
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)

    def keep_labels(self, dataset: ImageDataset) -> Positions:
        """Return the positions of the training images that keep their labels, ascending."""
        o, strata = self.options, dataset.strata
        seed = o["split_seed"] if o["label_seed"] is None else o["label_seed"]
        limited = o["labels_per_class"] is not None or o["label_fraction"] is not None
        codes = self._codes(dataset) if limited else None
        if codes is None or self.record is None or any(self.record.options.get(n) != o[n] for n in _LABEL_OPTIONS):
            return keep_labels(strata, o["labels_per_class"], o["label_fraction"], int(seed or 0))
        return np.flatnonzero((codes == SPLIT_CODES["train"]) & (strata.numpy() >= 0))

    def agrees(self, parts: Mapping[str, ImageDataset], labeled: Positions) -> bool:
        """Return whether images are divided as in the checkpoint, apart from splits that the source defines."""
        if self.record is None or not parts["train"].has_names:
            return True
        codes = {split: self._codes(dataset) for split, dataset in parts.items()}
        for split, recorded in codes.items():
            expected = {SPLIT_CODES[split], UNKNOWN} | ({HIDDEN} if split == "train" else set())
            if recorded is not None and not set(np.unique(recorded).tolist()) <= expected:
                return False
            if (
                recorded is not None
                and split == "train"
                and not np.array_equal(self.keep_labels(parts[split]), labeled)
            ):
                return False
        return True

    def make_record(self, parts: Mapping[str, ImageDataset], labeled: Positions) -> SplitRecord | None:
        """Return a record of the splits; `None` if the images have no names.

        Args:
            parts: The images of the existing splits among `train`, `val` and `test`.
            labeled: Positions of the training images that keep their labels.
        """
        if not parts["train"].has_names:
            return None
        entries = []
        for split, dataset in parts.items():
            codes: Codes = np.full(len(dataset), SPLIT_CODES[split], np.uint8)
            if split == "train":
                codes[:] = HIDDEN
                codes[labeled] = SPLIT_CODES[split]
            entries.append((self.names(dataset), codes))
        return SplitRecord.of(entries, self.options)

    @rank_zero_only
    def report_changes(self, parts: Mapping[str, ImageDataset]) -> None:
        """Log changes since the checkpoint: new and missing images, and evaluation images it was trained on."""
        if self.record is None or not parts["train"].has_names:
            return
        codes = {split: self._look_up(dataset, self.record) for split, dataset in parts.items()}
        recorded = sum(int((part != UNKNOWN).sum()) for part in codes.values())
        if self._is_other_data(recorded, sum(len(part) for part in codes.values())):
            log.info("The images are not those of the checkpoint: new splits are made.")
            return
        new = {split: int((part == UNKNOWN).sum()) for split, part in codes.items()}
        missing = max(0, len(self.record.keys) - recorded)
        if any(new.values()) or missing:
            shown = ", ".join(f"{count:,} in {split}" for split, count in new.items() if count)
            changes = [f"{_count(sum(new.values()))} new ({shown})"] if shown else []
            changes += [f"{_count(missing)} missing"] if missing else []
            log.warning(
                "The images have changed since the checkpoint: %s. The others stay in their splits.",
                " and ".join(changes),
            )
        trained = (SPLIT_CODES["train"], HIDDEN)
        for split, part in codes.items():
            if split != "train" and (count := int(np.isin(part, trained).sum())):
                log.warning("The checkpoint was trained on %d of the %d images of %s.", count, len(part), split)
        changed = [name for name in _OPTIONS if name in self.record.options
                   and self.record.options[name] != self.options[name]]  # fmt: skip
        if changed and self.held_out:
            log.warning(
                "%s has changed, but images of the checkpoint stay in their splits. Start a new run for new splits.",
                " and ".join(argument(name) for name in changed),
            )

    def separate(self, parts: Mapping[str, ImageDataset]) -> dict[str, ImageDataset]:
        """Return the splits, with images of other splits removed from training.

        Raises:
            ValueError: If there are such images and they are not to be skipped.
        """
        result = dict(parts)
        for split, dataset in parts.items():
            if split == "train" or (theirs := dataset.file_states()) is None:
                continue
            ours = result["train"].file_states()
            if ours is None or not (pairs := shared_files(ours, theirs)):
                continue
            shown = _named([dataset.sample_name(pair.second) for pair in pairs])
            overlap = f"{len(pairs)} of {len(dataset)} images of {split} are also training images: {shown}"
            kept = np.flatnonzero(~np.isin(ours.identity, theirs.identity))
            if self.on_error != "skip" or not len(kept):
                hint = (
                    f" ({setting('on_error', 'skip')} removes them from training)" if self.on_error == "raise" else ""
                )
                raise ValueError(f"{overlap}. List each image in one split, or omit {split} to have it held out{hint}.")
            log.warning("%s. They are removed from training.", overlap)
            result["train"] = result["train"].subset(kept)
        if "val" in result and "test" in result:
            states = [result[split].file_states() for split in ("val", "test")]
            if states[0] is not None and states[1] is not None and (pairs := shared_files(states[0], states[1])):
                log.warning(
                    "%d images are in both val and test: use different images to select and to report.", len(pairs)
                )
        return result

    @rank_zero_only
    def report_conflicts(self, dataset: ImageDataset) -> None:
        """Warn about files that are listed under several names with different labels."""
        states = dataset.file_states()
        if states is None:
            return
        first = first_positions(states)
        labels = dataset.labels.numpy()
        differs = labels != labels[first]
        if len(rows := np.flatnonzero(differs if labels.ndim == 1 else differs.any(1))):
            pairs = [
                f"{dataset.sample_name(a)} = {dataset.sample_name(b)}"
                for a, b in zip(rows.tolist(), first[rows].tolist(), strict=True)
            ]
            log.warning("%d images are listed twice, with different labels: %s.", len(rows), _named(pairs))

    @rank_zero_only
    def report_copies(self, parts: Mapping[str, ImageDataset]) -> None:
        """Warn about validation and test images that are byte-for-byte copies of training images."""
        train = parts["train"].files(), parts["train"].file_states()
        for split, dataset in parts.items():
            files, states = dataset.files(), dataset.file_states()
            if split == "train" or files is None or states is None or train[0] is None or train[1] is None:
                continue
            pairs, looked_at = equal_contents([train[0], files], [train[1], states])
            if pairs:
                shown = _named([f"{files[1][b]} = {train[0][1][a]}" for a, b in pairs])
                log.warning(
                    "%d of %d images of %s are exact copies of training images: %s.",
                    len(pairs), looked_at, split, shown,
                )  # fmt: skip

    def _codes(self, dataset: ImageDataset) -> Codes | None:
        """Return the split of each image in the checkpoint; `None` without a record, or if it is of other data."""
        if self.record is None or not dataset.has_names:
            return None
        codes = self._look_up(dataset, self.record)
        return None if self._is_other_data(int((codes != UNKNOWN).sum()), len(dataset)) else codes

    def _look_up(self, dataset: ImageDataset, record: SplitRecord) -> Codes:
        """Return the split of each image in a record, by its path relative to this root, else to the record's."""
        codes, root, files = record.look_up(self.names(dataset)), record.options.get("root"), dataset.files()
        unknown = np.flatnonzero(codes == UNKNOWN)
        if files is None or not isinstance(root, str) or root == self.options["root"] or not len(unknown):
            return codes
        folder = os.path.abspath(files[0])
        paths = (os.path.normpath(os.path.join(folder, files[1][row])) for row in unknown.tolist())
        codes[unknown] = record.look_up([path.removeprefix(root + os.sep).replace(os.sep, "/") for path in paths])
        return codes

    def _is_other_data(self, recorded: int, count: int) -> bool:
        """Return whether images are not those of the checkpoint, from how many of them are in the record."""
        if self.record is None or not recorded:
            return True
        elsewhere = self.record.options.get("root") != self.options["root"]
        return elsewhere and recorded < _LEAST_SHARE * min(count, len(self.record.keys))


def _count(number: int) -> str:
    return f"{number:,} {'is' if number == 1 else 'are'}"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name, lines=False) for name in names[:_SHOWN])
    return shown + (", ..." if len(names) > _SHOWN else "")
