"""The runs that earlier fits left behind, and the checkpoints in them."""

import logging
import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_cv.metrics_csv import read_metrics

__all__ = ["Checkpoint", "find_checkpoint", "newest_run", "remove_unused_run"]

log = logging.getLogger("lit_cv")

_EVENTS = "events.out.tfevents."  # TensorBoard's files; their names hold the number of the process

_KINDS = "it is a file of another kind, or cut short"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        path: The file.
        class_path: Import path of the module that it holds, `None` if another program wrote it.
        hyperparameters: Constructor arguments of that module.
        step: Optimizer steps taken when it was written.
    """

    path: Path
    class_path: str | None
    hyperparameters: dict[str, Any]
    step: int

    @property
    def run(self) -> Path | None:
        """The folder of the run that wrote it, if it still lies there."""
        folder = self.path.parent.parent
        return folder if (folder / "config.yaml").is_file() else None

    @property
    def config(self) -> Path | None:
        """The configuration of that run."""
        return self.run / "config.yaml" if self.run else None


def find_checkpoint(name: str, root: str | None = None) -> Checkpoint:
    """Find and open the checkpoint that `--ckpt_path` names.

    Args:
        name: A path, or `last` or `best` for that of the newest run.
        root: Folder above `lightning_logs`; `None` is the working directory.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it cannot be read, nor the one before it.
    """
    path = Path(name)
    if name in ("last", "best"):
        path = newest_run(root) / "checkpoints" / f"{name}.ckpt"
    elif not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {name!r} (--ckpt_path takes a file, `last` or `best`; of fit also `auto`)."
        )
    try:
        return _open(path)
    except ValueError as error:
        before = path.with_name("previous.ckpt")
        if path.name != "last.ckpt" or not before.is_file():
            raise
        log.warning("%s Falling back to the one before, %s.", error, before)
        return _open(before)


def newest_run(root: str | None = None) -> Path:
    """Return the folder of the run whose last checkpoint is the newest.

    Raises:
        FileNotFoundError: If no run has left a checkpoint.
    """
    logs = Path(root or ".") / "lightning_logs"
    found = sorted(logs.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise FileNotFoundError(
            f"no run in {logs.resolve()} has left a checkpoint to continue from: "
            f"start one with `lit-cv fit`, or name a file with --ckpt_path."
        )
    return found[-1].parent.parent


def remove_unused_run(folder: Path) -> None:
    """Remove the folder of a run that has ended before it logged anything; one with anything of worth stays.

    Args:
        folder: The folder. Nothing is removed if another process has written to it, too.
    """
    found = [path for path in folder.rglob("*") if not path.is_dir()] if folder.is_dir() else []
    table = folder / "metrics.csv"
    if table in found and read_metrics(table):
        return
    own = {folder / name for name in ("config.yaml", "hparams.yaml", "metrics.csv")}
    if all(path in own or (_EVENTS in path.name and f".{os.getpid()}." in path.name) for path in found):
        shutil.rmtree(folder, ignore_errors=True)


def _open(path: Path) -> Checkpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if zipfile.is_zipfile(path) else None
        what = f"it holds Python objects ({refused[1]}), which could run code when loaded" if refused else _KINDS
        if isinstance(error, OSError) and error.strerror:
            what = error.strerror
        raise ValueError(f"{path} is not a whole checkpoint of lit_cv: {what}.") from None
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of a Trainer: it has no state_dict.")
    return Checkpoint(
        path=path,
        class_path=content.get("lit_cv", {}).get("class_path"),
        hyperparameters=dict(content.get("hyper_parameters", {})),
        step=int(content.get("global_step", 0)),
    )
