"""Runs of an approach, uninterrupted or resumed from the checkpoints that a kill leaves behind."""

import copy
import hashlib
import pickle
import random
import shutil
import warnings
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


class RowLogger(Logger):
    """Records all logged metrics in order."""

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
        """Do nothing."""


class Recorder(L.Callback):
    """Records the initial weights, the random state and loss of every step, and the first batch of each stage."""

    def __init__(self) -> None:
        self.steps: dict[tuple[int, int], list[str]] = {}
        self.losses: list[float] = []
        self.batches: dict[str, Any] = {}
        self.start: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.setdefault("train", copy.deepcopy(batch))
        self.steps[trainer.current_epoch, batch_idx] = [_random_state()]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps[trainer.current_epoch, batch_idx].append(_random_state())
        self.losses.append(float(outputs["loss"]))

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
        self.batches.setdefault("val", copy.deepcopy(batch))


class KillSnapshots(L.Callback):
    """Copies the checkpoints that a kill at each of `PLACES`, in each epoch, would leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.snapshots: dict[tuple[int, str], Path] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            self._copy(trainer, trainer.current_epoch, PLACES[0])

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if not trainer.sanity_checking:
            self._copy(trainer, trainer.current_epoch, PLACES[1])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch > 0:
            self._copy(trainer, trainer.current_epoch - 1, PLACES[2])

    def _copy(self, trainer: L.Trainer, epoch: int, place: str) -> None:
        (checkpoints,) = [each for each in trainer.checkpoint_callbacks if isinstance(each, RunCheckpoint)]
        snapshot = self.folder / f"{place} {epoch}"
        shutil.copytree(Path(checkpoints.last_model_path).parent, snapshot, dirs_exist_ok=True)
        self.snapshots[epoch, place] = snapshot / "last.ckpt"


class KillSnapshotsOfEveryBatch(KillSnapshots):
    """Copies the checkpoints that a kill at the start of each batch would leave behind."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step:
            self._copy(trainer, trainer.current_epoch, f"at batch {batch_idx}")


class Run:
    """A completed fit.

    Attributes:
        module: The trained module.
        trainer: Its Trainer.
        data: Its DataModule.
        recorder: The recorded states, losses and batches.
        rows: The logged metrics.
        snapshots: The checkpoints that a kill would leave behind, by epoch and place.
        last: The last checkpoint.
    """

    def __init__(
        self,
        case: Case,
        folder: Path,
        seed: int,
        continued: Path | None = None,
        weights: Path | None = None,
        snapshots: type[KillSnapshots] = KillSnapshots,
        **options: Any,
    ) -> None:
        L.seed_everything(seed, verbose=False)  # a resumed run has another seed of the process
        self.recorder, self._logger, self._snapshots = Recorder(), RowLogger(folder), snapshots(folder)
        callbacks = [] if continued else [self._snapshots]
        self.trainer = L.Trainer(
            **QUIET | {"max_epochs": case.epochs, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0} | options,
            default_root_dir=folder,
            logger=self._logger,
            callbacks=[*case.callbacks(), self.recorder, *callbacks, RunCheckpoint(0 if continued else 1)],
        )
        arguments = copy.deepcopy(dict(case.options)) | ({case.weights_argument: str(weights)} if weights else {})
        self.module: BaseModule = case.cls(**arguments)
        self.data = case.data()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*in eval mode")
            warnings.filterwarnings("ignore", "You have overridden `on_before_batch_transfer`")
            self.trainer.fit(self.module, self.data, ckpt_path=continued, weights_only=True)
        self.rows = self._logger.rows
        self.snapshots = self._snapshots.snapshots
        self.last = folder / "checkpoints" / "last.ckpt"

    def content(self) -> dict[str, Any]:
        """Return the last checkpoint."""
        content: dict[str, Any] = torch.load(self.last, weights_only=True)
        return content


def _random_state() -> str:
    states = (torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state())
    return hashlib.sha256(pickle.dumps(states)).hexdigest()


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Return the paths at which two nested values differ; tensors are compared bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        return [] if same else [path]
    if type(a) is not type(b):
        return [f"{path} ({type(a).__name__}, {type(b).__name__})"]
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [place for key in a for place in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{path}: lengths {len(a)}, {len(b)}"]
        return [place for i, pair in enumerate(zip(a, b, strict=True)) for place in differences(*pair, f"{path}/{i}")]
    return [] if a == b or (a != a and b != b) else [f"{path}: {a} and {b}"]
