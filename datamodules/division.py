"""How the images of one listing are divided: as a checkpoint has them, files of one image on one side."""

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

_SHOWN = 3  # images that a message names
_LEAST_SHARE = 0.5  # of the images of a record that lie in another folder for them to be the same data
_OPTIONS = ("val_fraction", "test_fraction", "split_seed")
_LABEL_OPTIONS = ("labels_per_class", "label_fraction", "label_seed", "split_seed")


class Division:
    """Divides the images of a DataModule into splits, and knows how those of a checkpoint were divided.

    Args:
        options: Arguments of the DataModule: fractions, seeds, `root` and `on_error`.
        record: The splits of the checkpoint that the Trainer is about to load; `None` for a new run.
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
        """Return the names of images as records have them: below `root`, whatever folder they are listed from."""
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
        """Return the positions of the images that stay, and of those held out for a split, both ascending.

        Images that the checkpoint knows stay where they were; only new ones are divided. Several paths to one file
        stay together.

        Args:
            dataset: The images.
            split: `val` or `test`.
            fraction: Share of the labeled images to be held out.
            purpose: Number that tells apart choices by the same seed.
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
        """Tell whether images are divided as the checkpoint has them, as far as that is not given by the source."""
        if self.record is None or not parts["train"].has_names:
            return True
        codes = {split: self._codes(dataset) for split, dataset in parts.items()}
        for split, found in codes.items():
            wanted = {SPLIT_CODES[split], UNKNOWN} | ({HIDDEN} if split == "train" else set())
            if found is not None and not set(np.unique(found).tolist()) <= wanted:
                return False
            if found is not None and split == "train" and not np.array_equal(self.keep_labels(parts[split]), labeled):
                return False
        return True

    def make_record(self, parts: Mapping[str, ImageDataset], labeled: Positions) -> SplitRecord | None:
        """Return the splits of these images; `None` where nothing is recorded, for they have no names.

        Args:
            parts: The images of `train`, `val` and `test`, as far as there are some.
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
        """Say what has changed since the checkpoint: images that are new or gone, or were trained on."""
        if self.record is None or not parts["train"].has_names:
            return
        codes = {split: self._look_up(dataset, self.record) for split, dataset in parts.items()}
        known = sum(int((part != UNKNOWN).sum()) for part in codes.values())
        if self._are_others(known, sum(len(part) for part in codes.values())):
            log.info("The images are not those of the checkpoint's run: they are divided anew.")
            return
        new = {split: int((part == UNKNOWN).sum()) for split, part in codes.items()}
        gone = max(0, len(self.record.keys) - known)
        if any(new.values()) or gone:
            shown = ", ".join(f"{count:,} in {split}" for split, count in new.items() if count)
            changes = [f"{_count(sum(new.values()))} new ({shown})"] if shown else []
            changes += [f"{_count(gone)} gone"] if gone else []
            log.warning(
                "The images have changed since the checkpoint: %s. The others stay in the splits that they were in.",
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
                "%s: the images of the checkpoint stay in its splits. Start a new run to divide them anew.",
                " and ".join(argument(name) for name in changed),
            )

    def separate(self, parts: Mapping[str, ImageDataset]) -> dict[str, ImageDataset]:
        """Return the splits without training images that are images of another split, too.

        Raises:
            ValueError: If there are some, and they are not to be left out.
        """
        result = dict(parts)
        for split, dataset in parts.items():
            if split == "train" or (theirs := dataset.file_states()) is None:
                continue
            ours = result["train"].file_states()
            if ours is None or not (pairs := shared_files(ours, theirs)):
                continue
            shown = _named([dataset.sample_name(pair.second) for pair in pairs])
            said = f"{len(pairs)} of {len(dataset)} images of {split} are training images, too: {shown}"
            kept = np.flatnonzero(~np.isin(ours.identity, theirs.identity))
            if self.on_error != "skip" or not len(kept):
                hint = (
                    f" ({setting('on_error', 'skip')} leaves them out of training)" if self.on_error == "raise" else ""
                )
                raise ValueError(
                    f"{said}. List each image in one split, or leave out {split}, which is held out then{hint}."
                )
            log.warning("%s. They are left out of training.", said)
            result["train"] = result["train"].subset(kept)
        if "val" in result and "test" in result:
            states = [result[split].file_states() for split in ("val", "test")]
            if states[0] is not None and states[1] is not None and (pairs := shared_files(states[0], states[1])):
                log.warning("%d images are in val and in test: choose and report by different ones.", len(pairs))
        return result

    @rank_zero_only
    def report_conflicts(self, dataset: ImageDataset) -> None:
        """Say which files are listed under several names with different labels."""
        states = dataset.file_states()
        if states is None:
            return
        first = first_positions(states)
        labels = dataset.labels.numpy()
        differs = labels != labels[first]
        if len(found := np.flatnonzero(differs if labels.ndim == 1 else differs.any(1))):
            pairs = [
                f"{dataset.sample_name(a)} = {dataset.sample_name(b)}"
                for a, b in zip(found.tolist(), first[found].tolist(), strict=True)
            ]
            log.warning("%d images are listed twice, with different labels: %s.", len(found), _named(pairs))

    @rank_zero_only
    def report_copies(self, parts: Mapping[str, ImageDataset]) -> None:
        """Say which images of validation and test are copies of training images, byte for byte."""
        train = parts["train"].files(), parts["train"].file_states()
        for split, dataset in parts.items():
            files, states = dataset.files(), dataset.file_states()
            if split == "train" or files is None or states is None or train[0] is None or train[1] is None:
                continue
            pairs, looked_at = equal_contents([train[0], files], [train[1], states])
            if pairs:
                shown = _named([f"{files[1][b]} = {train[0][1][a]}" for a, b in pairs])
                log.warning(
                    "%d of %d images of %s are copies of training images, byte for byte: %s.",
                    len(pairs), looked_at, split, shown,
                )  # fmt: skip

    def _codes(self, dataset: ImageDataset) -> Codes | None:
        """Return the split of each image in the checkpoint; `None` where none is known, or these are other data."""
        if self.record is None or not dataset.has_names:
            return None
        codes = self._look_up(dataset, self.record)
        return None if self._are_others(int((codes != UNKNOWN).sum()), len(dataset)) else codes

    def _look_up(self, dataset: ImageDataset, record: SplitRecord) -> Codes:
        """Return the split of each image in a record, by its path below the root here, or else below the record's."""
        codes, root, files = record.look_up(self.names(dataset)), record.options.get("root"), dataset.files()
        unknown = np.flatnonzero(codes == UNKNOWN)
        if files is None or not isinstance(root, str) or root == self.options["root"] or not len(unknown):
            return codes
        folder = os.path.abspath(files[0])
        paths = (os.path.normpath(os.path.join(folder, files[1][row])) for row in unknown.tolist())
        codes[unknown] = record.look_up([path.removeprefix(root + os.sep).replace(os.sep, "/") for path in paths])
        return codes

    def _are_others(self, known: int, count: int) -> bool:
        """Tell whether images, so many of which are in the record, are other data than those of the checkpoint."""
        if self.record is None or not known:
            return True
        elsewhere = self.record.options.get("root") != self.options["root"]
        return elsewhere and known < _LEAST_SHARE * min(count, len(self.record.keys))


def _count(number: int) -> str:
    return f"{number:,} {'is' if number == 1 else 'are'}"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name, lines=False) for name in names[:_SHOWN])
    return shown + (", ..." if len(names) > _SHOWN else "")
