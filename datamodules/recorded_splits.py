"""A DataModule whose splits are those of its checkpoint, and whose classes are numbered as a model has learned them."""

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
    """Base of `BaseDataModule`: what a checkpoint says of the images is taken up before `setup`, or after it.

    Attributes:
        checkpoint_path: The checkpoint that the Trainer is about to load, if it is known before `setup`.
    """

    checkpoint_path: str | Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self._held_out: Positions | None = None
        self._is_set_up = False
        self._parts: dict[str, ImageDataset] = {}  # the images of each split, as they were divided
        self._labeled: Positions = np.empty(0, np.int64)  # training images that keep their labels
        self._given_record: SplitRecord | None = None
        self._renumbered: list[tuple[str, list[int], list[str]]] = []  # arguments of `renumber_classes`

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them by `division`, once."""

    @cached_property
    def division(self) -> Division:
        """How the images are divided: as those of the checkpoint that the Trainer is about to load, if there is one."""
        division = Division(self.hparams, self._given_record)
        if division.record is None:
            name, root = type(self).__qualname__, division.options["root"]
            division.record = record_in_checkpoint(self.checkpoint_path, name, root)
        return division

    @cached_property
    def _record(self) -> SplitRecord | None:
        return self.division.make_record(self._parts, self._labeled) if self._parts else None

    def renumber_classes(self, attribute: str, numbers: list[int], names: list[str]) -> None:
        """Number classes in another order in all splits, as a model has learned them.

        Args:
            attribute: Which classes: `class_names`, `box_classes` or `mask_classes`.
            numbers: The new number of each class.
            names: The names in the new order.

        Raises:
            ValueError: If the images do not come with such labels.
        """
        sets = {name: value for name, value in vars(self).items() if isinstance(value, ImageDataset)}
        new = {id(value): value.renumbered(attribute, numbers, names) for value in sets.values()}
        for name, value in sets.items():
            setattr(self, name, new[id(value)])
        setattr(self, attribute, names)
        self._renumbered.append((attribute, numbers, names))

    def restore_splits(self, state: Mapping[str, Any]) -> None:
        """Take up the splits in what `state_dict` gave; they are made anew if others were made already.

        The Trainer loads a checkpoint after `setup`. Where `checkpoint_path` is known before, nothing is made twice.
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
        """Forget splits that `load` has made, for them to be made anew."""
        self.__dict__.pop("_record", None)
