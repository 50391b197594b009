"""Runs of an approach, uninterrupted or continued from what a kill leaves on the disk."""

import copy
import hashlib
import pickle
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from lit_cv.callbacks import RunCheckpoint
from lit_cv.modules.base import BaseModule
from tests.contracts.cases import Case

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
}  # fmt: skip
PLACES = ("within accumulated batches", "during validation", "between epochs")


class Rows(Logger):
    """Keeps what is logged, in order."""

    name, version = "rows", 0

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.rows: list[dict[str, float]] = []

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append({**{name: float(value) for name, value in metrics.items()}, "step": float(step or 0)})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep none."""


class Recorder(L.Callback):
    """Notes the random state at both ends of every training step, its loss, and the first batch of each stage."""

    def __init__(self) -> None:
        self.steps: dict[tuple[int, int], list[str]] = {}
        self.losses: list[float] = []
        self.batches: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.setdefault("train", copy.deepcopy(batch))
        self.steps[trainer.current_epoch, batch_idx] = [_random_state()]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps[trainer.current_epoch, batch_idx].append(_random_state())
        self.losses.append(float(outputs["loss"]))

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
        self.batches.setdefault("val", copy.deepcopy(batch))


class Kills(L.Callback):
    """Copies, at each of `PLACES`, the checkpoint that a process killed there leaves behind."""

    def __init__(self, epoch: int, folder: Path) -> None:
        self.epoch, self.folder = epoch, folder
        self.left: dict[str, Path] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 3):
            self._copy(trainer, PLACES[0])

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.current_epoch == self.epoch and not trainer.sanity_checking and PLACES[1] not in self.left:
            self._copy(trainer, PLACES[1])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch + 1:
            self._copy(trainer, PLACES[2])

    def _copy(self, trainer: L.Trainer, place: str) -> None:
        (checkpoints,) = [each for each in trainer.checkpoint_callbacks if isinstance(each, RunCheckpoint)]
        self.left[place] = self.folder / f"{place}.ckpt"
        shutil.copyfile(checkpoints.last_model_path, self.left[place])


class Run:
    """A fit to its end.

    Attributes:
        module: The trained module.
        trainer: Its Trainer.
        data: Its DataModule.
        recorder: What was noted of its steps.
        rows: What it logged.
        left: What a kill leaves on the disk, by its place.
        last: The last checkpoint.
    """

    def __init__(self, case: Case, folder: Path, seed: int, continued: Path | None = None, **options: Any) -> None:
        L.seed_everything(seed, verbose=False)  # of the process: a continued one has another
        self.recorder, self._rows, self._kills = Recorder(), Rows(folder), Kills(case.killed_in, folder)
        watching = [] if continued else [self._kills]
        self.trainer = L.Trainer(
            **QUIET | {"max_epochs": case.epochs, "accumulate_grad_batches": 2} | options,
            default_root_dir=folder,
            logger=self._rows,
            callbacks=[*case.callbacks(), self.recorder, *watching, RunCheckpoint(every_n_steps=1)],
        )
        self.module: BaseModule = case.cls(**copy.deepcopy(dict(case.options)))
        self.data = case.data()
        self.trainer.fit(self.module, self.data, ckpt_path=continued, weights_only=True)
        self.rows = self._rows.rows
        self.left = self._kills.left
        self.last = folder / "checkpoints" / "last.ckpt"

    def content(self) -> dict[str, Any]:
        """Return the last checkpoint."""
        content: dict[str, Any] = torch.load(self.last, weights_only=True)
        return content


def _random_state() -> str:
    states = (torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state())
    return hashlib.sha256(pickle.dumps(states)).hexdigest()


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Return where two nested values differ, tensors compared bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        return [] if same else [path]
    if type(a) is not type(b):
        return [f"{path} ({type(a).__name__}, {type(b).__name__})"]
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [found for key in a for found in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{path}: lengths {len(a)}, {len(b)}"]
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{path}/{i}")]
    return [] if a == b or (a != a and b != b) else [f"{path}: {a} and {b}"]
