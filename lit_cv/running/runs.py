"""The runs that earlier fits left behind, and the checkpoints in them."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_cv.atomic_files import remove_unfinished
from lit_cv.checkpoint_file import read_checkpoint
from lit_cv.errors import FIT, argument, option
from lit_cv.file_lock import FileLock
from lit_cv.metrics_table import read_metrics

__all__ = ["Checkpoint", "claim_run", "find_checkpoint", "make_run_folder", "newest_run", "remove_unused_run"]

log = logging.getLogger("lit_cv")

_EVENTS = "events.out.tfevents."  # TensorBoard's files; their names hold the number of the process
_LOCK = ".lock"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        path: The file.
        class_path: Import path of the module that it holds, `None` if another program wrote it.
        hyperparameters: Constructor arguments of that module.
        step: Optimizer steps taken when it was written.
        class_names: Names of the classes that it tells apart.
        size: Bytes of the file.
        data_parameters: Constructor arguments of the DataModule that it was trained on, unchecked.
        classes: Names of all classes that it tells apart, by the attribute of a DataModule that lists them.
    """

    path: Path
    class_path: str | None
    hyperparameters: dict[str, Any]
    step: int
    class_names: list[str] = field(default_factory=list)
    size: int = 0
    data_parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    classes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def run(self) -> Path | None:
        """The folder of the run that wrote it, if it still lies there."""
        folder = self.path.parent.parent
        return folder if (folder / "config.yaml").is_file() else None

    @property
    def config(self) -> Path | None:
        """The configuration of that run."""
        return self.run / "config.yaml" if self.run else None

    def further_step(self) -> int | None:
        """Return the steps of the furthest checkpoint beside this one, `None` where this is the furthest."""
        steps = []
        for name in ("last.ckpt", "previous.ckpt"):
            other = self.path.with_name(name)
            if other.is_file() and not other.samefile(self.path):
                with contextlib.suppress(ValueError, OSError):  # a damaged one cannot be continued
                    steps.append(_open(other).step)
        further = max(steps, default=0)
        return further if further > self.step else None


def find_checkpoint(name: str, root: str | None = None) -> Checkpoint:
    """Find and open the checkpoint that `ckpt_path` names.

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
        spelled = option("ckpt_path", FIT)  # some verbs take it without an option
        more = "" if spelled is None else f"; for `fit` also `auto` ({spelled})"
        raise FileNotFoundError(f"there is no checkpoint {name!r}: give a file, `last` or `best`{more}.")
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
        spelled = option("ckpt_path", FIT)
        where = "" if spelled is None else f" ({spelled})"
        raise FileNotFoundError(
            f"no run in {logs.resolve()} has left a checkpoint to continue from: "
            f"start one with `lit-cv fit`, or name a file{where}."
        )
    return found[-1].parent.parent


def make_run_folder(logs: Path) -> Path:
    """Make the folder of a new run, `version_N` with the next number that no other run has, and return it.

    Args:
        logs: The folder above it, made if it is missing.
    """
    logs.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name[8:]) for path in logs.glob("version_*") if path.name[8:].isdecimal()]
    number = max(numbers, default=-1) + 1
    while True:
        folder = logs / f"version_{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run that starts at this moment
            number += 1
        else:
            return folder


def claim_run(folder: Path, otherwise: str | None = None) -> FileLock:
    """Keep other processes out of the folder of a run until the lock is released, or this process ends.

    What writers that were killed left unfinished there is removed.

    Args:
        folder: The folder, which must be there.
        otherwise: What to do if another process is at work in it, besides waiting; `None` is to start a new run.

    Raises:
        ValueError: If another process is at work in it.
        OSError: If it, or its folder `checkpoints`, is a link: a run writes through none.
    """
    for owned in (folder, folder / "checkpoints"):
        if owned.is_symlink():
            raise OSError(
                errno.ELOOP, f"{owned} is a link, and a run writes through none: name the checkpoint where it lies, "
                f"{owned.resolve()} ({argument('ckpt_path', FIT)})"
            )  # fmt: skip
    lock = FileLock(folder / _LOCK)
    if not lock.acquire():
        otherwise = otherwise or f"start a new run (leave {argument('ckpt_path', FIT)} out)"
        raise ValueError(f"another process is continuing the run in {folder}: wait until it ends, or {otherwise}.")
    for place in (folder, folder / "checkpoints"):
        remove_unfinished(place)
    return lock


def remove_unused_run(folder: Path) -> None:
    """Remove the folder of a run that has ended before it logged anything; one with anything of worth stays.

    Args:
        folder: The folder. Nothing is removed if another process has written to it, too.
    """
    found = [path for path in folder.rglob("*") if not path.is_dir()] if folder.is_dir() else []
    table = folder / "metrics.csv"
    with contextlib.suppress(OSError, ValueError):  # the run's own error is the one to tell
        if table in found and read_metrics(table):
            return
    own = {folder / name for name in ("config.yaml", "hparams.yaml", "metrics.csv", _LOCK)}
    if all(path in own or (_EVENTS in path.name and f".{os.getpid()}." in path.name) for path in found):
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the folder of the runs, if this was the first
            folder.parent.rmdir()


def _open(path: Path) -> Checkpoint:
    content = read_checkpoint(path)
    return Checkpoint(
        path,
        content.class_path,
        content.hyper_parameters,
        content.step,
        content.class_names,
        content.size,
        content.data_parameters,
        content.classes,
    )
