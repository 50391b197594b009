"""DataModule base that restores the splits of a checkpoint and the class order of a model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from datamodules.dataset import ImageDataset
from datamodules.division import Division
from datamodules.split_record import SplitRecord, record_in_checkpoint
from datamodules.splits import Positions

__all__ = ["RecordedSplits"]


class RecordedSplits(L.LightningDataModule, ABC):
    """Base of `BaseDataModule` that restores splits from a checkpoint, before or after `setup`.

    Attributes:
        checkpoint_path: The checkpoint that the Trainer is about to load, if known before `setup`.
    """

    checkpoint_path: str | Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self._held_out: Positions | None = None
        self._is_set_up = False
        self._parts: dict[str, ImageDataset] = {}  # images of each split before `finish`
        self._labeled: Positions = np.empty(0, np.int64)  # training images that keep their labels
        self._given_record: SplitRecord | None = None
        self._renumbered: list[tuple[str, list[int], list[str]]] = []  # arguments of `renumber_classes`

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them by `division` once."""

    @cached_property
    def division(self) -> Division:
        """Division of the images, as in the checkpoint that the Trainer is about to load, if any."""
        division = Division(self.hparams, self._given_record)
        if division.record is None:
            name, root = type(self).__qualname__, division.options["root"]
            division.record = record_in_checkpoint(self.checkpoint_path, name, root)
        return division

    @cached_property
    def _record(self) -> SplitRecord | None:
        return self.division.make_record(self._parts, self._labeled) if self._parts else None

    def renumber_classes(self, attribute: str, numbers: list[int], names: list[str]) -> None:
        """Renumber classes in all splits to match the order of a model.

        Args:
            attribute: Classes to renumber: `class_names`, `box_classes` or `mask_classes`.
            numbers: The new number of each class.
            names: The names in the new order.

        Raises:
            ValueError: If the images have no such labels.
        """
        sets = {name: value for name, value in vars(self).items() if isinstance(value, ImageDataset)}
        new = {id(value): value.renumbered(attribute, numbers, names) for value in sets.values()}
        for name, value in sets.items():
            setattr(self, name, new[id(value)])
        setattr(self, attribute, names)
        self._renumbered.append((attribute, numbers, names))

    def restore_splits(self, state: Mapping[str, Any]) -> None:
        """Restore the splits from `state_dict`; repeat `setup` if other splits were already made.

        The Trainer loads a checkpoint after `setup`. With `checkpoint_path` known earlier, nothing is repeated.
        """
        record = SplitRecord.from_state(state.get("splits"))
        if record is None or self._held_out is not None:
            return
        self._given_record = record
        if not self._is_set_up or self.division.record is not None:
            return
        divided, self.division = self.division, Division(self.hparams, record)
        if self.division.agrees(self._parts, self._labeled):
            self.division.held_out = divided.held_out
            self.division.report_changes(self._parts)
            return
        renumbered, self._renumbered = self._renumbered, []
        self._is_set_up = False
        self.forget()
        self.setup("validate")
        for arguments in renumbered:
            self.renumber_classes(*arguments)

    def forget(self) -> None:
        """Discard splits made by `load`, so that they are made again."""
        self.__dict__.pop("_record", None)
