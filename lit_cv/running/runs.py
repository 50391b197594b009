"""Run folders and their checkpoints."""

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
from lit_cv.hub import download, is_hub_name
from lit_cv.metrics_table import read_metrics

__all__ = ["Checkpoint", "claim_run", "find_checkpoint", "make_run_folder", "newest_run", "remove_unused_run"]

log = logging.getLogger("lit_cv")

_EVENTS = "events.out.tfevents."  # TensorBoard's files; their names contain the process ID
_LOCK = ".lock"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        path: The file.
        class_path: Import path of the module, `None` if another program wrote the checkpoint.
        hyperparameters: Constructor arguments of the module.
        step: Optimizer steps at the time of writing.
        class_names: Names of the image classes.
        size: File size in bytes.
        data_parameters: Constructor arguments of the DataModule in training, unchecked.
        classes: Names of all classes, by the DataModule attribute that lists them.
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
        """The folder of the run that wrote it, if the file is still in it."""
        folder = self.path.parent.parent
        return folder if (folder / "config.yaml").is_file() else None

    @property
    def config(self) -> Path | None:
        """The configuration of that run."""
        return self.run / "config.yaml" if self.run else None

    def further_step(self) -> int | None:
        """Return the step of the latest checkpoint in this folder, `None` if this one is the latest."""
        steps = []
        for name in ("last.ckpt", "previous.ckpt"):
            other = self.path.with_name(name)
            if other.is_file() and not other.samefile(self.path):
                with contextlib.suppress(ValueError, OSError):  # a damaged one cannot be resumed
                    steps.append(_open(other).step)
        latest = max(steps, default=0)
        return latest if latest > self.step else None


def find_checkpoint(name: str, root: str | None = None) -> Checkpoint:
    """Find and open the checkpoint that `ckpt_path` names.

    Args:
        name: A path, `last` or `best` of the newest run, or `hf://OWNER/NAME` of the Hugging Face Hub.
        root: Parent folder of `lightning_logs`; `None` is the working directory.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If neither it nor the previous one can be read.
    """
    path = Path(name)
    if name in ("last", "best"):
        path = newest_run(root) / "checkpoints" / f"{name}.ckpt"
    elif is_hub_name(name):
        path = download(name)
    elif not path.is_file():
        spelled = option("ckpt_path", FIT)  # some verbs take the checkpoint as a positional argument
        more = "" if spelled is None else f"; for `fit` also `auto` ({spelled})"
        raise FileNotFoundError(f"checkpoint {name!r} does not exist: give a file, `last` or `best`{more}.")
    try:
        return _open(path)
    except ValueError as error:
        previous = path.with_name("previous.ckpt")
        if path.name != "last.ckpt" or not previous.is_file():
            raise
        log.warning("%s Falling back to the previous checkpoint, %s.", error, previous)
        return _open(previous)


def newest_run(root: str | None = None) -> Path:
    """Return the folder of the run with the newest `last.ckpt`.

    Raises:
        FileNotFoundError: If no run has a checkpoint.
    """
    logs = Path(root or ".") / "lightning_logs"
    checkpoints = sorted(logs.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    if not checkpoints:
        spelled = option("ckpt_path", FIT)
        where = "" if spelled is None else f" ({spelled})"
        raise FileNotFoundError(
            f"no run in {logs.resolve()} has a checkpoint to resume from: "
            f"start one with `lit-cv fit`, or name a file{where}."
        )
    return checkpoints[-1].parent.parent


def make_run_folder(logs: Path) -> Path:
    """Make the folder of a new run, `version_N` with the next free number, and return it.

    Args:
        logs: The parent folder, made if it does not exist.
    """
    logs.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name[8:]) for path in logs.glob("version_*") if path.name[8:].isdecimal()]
    number = max(numbers, default=-1) + 1
    while True:
        folder = logs / f"version_{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run that starts at the same time
            number += 1
        else:
            return folder


def claim_run(folder: Path, otherwise: str | None = None) -> FileLock:
    """Lock a run folder against other processes until the lock is released or this process ends.

    Unfinished files of killed writers in it are removed.

    Args:
        folder: The folder; it must exist.
        otherwise: Advice besides waiting if another process uses the folder; `None` advises to start a new run.

    Raises:
        ValueError: If another process uses the folder.
        OSError: If it, or its folder `checkpoints`, is a link, through which runs do not write.
    """
    for path in (folder, folder / "checkpoints"):
        if path.is_symlink():
            raise OSError(
                errno.ELOOP, f"{path} is a link, through which runs do not write: name the checkpoint in its folder, "
                f"{path.resolve()} ({argument('ckpt_path', FIT)})"
            )  # fmt: skip
    lock = FileLock(folder / _LOCK)
    if not lock.acquire():
        otherwise = otherwise or f"start a new run (leave {argument('ckpt_path', FIT)} out)"
        raise ValueError(f"another process is using the run folder {folder}: wait until it ends, or {otherwise}.")
    for place in (folder, folder / "checkpoints"):
        remove_unfinished(place)
    return lock


def remove_unused_run(folder: Path) -> None:
    """Remove the folder of a run that ended before it logged anything; any other folder is kept.

    Args:
        folder: The folder; it is kept if another process has written to it, too.
    """
    files = [path for path in folder.rglob("*") if not path.is_dir()] if folder.is_dir() else []
    table = folder / "metrics.csv"
    with contextlib.suppress(OSError, ValueError):  # the error that ended the run is reported instead
        if table in files and read_metrics(table):
            return
    removable = {folder / name for name in ("config.yaml", "hparams.yaml", "metrics.csv", _LOCK)}
    if all(path in removable or (_EVENTS in path.name and f".{os.getpid()}." in path.name) for path in files):
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
