"""Checkpoints that are on disk whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lit_cv.atomic_files import atomic_write

__all__ = ["AtomicCheckpointIO", "link_checkpoint"]

_SHARDED = (".metadata", "meta.pt")  # in the folder of a checkpoint in pieces


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, forces it to disk and moves it there in one step.

    A process killed while it writes leaves the file that was there before, and so does a full disk. Of `last.ckpt` the
    one before is kept as `previous.ckpt`, for the case that the disk itself damages the newest.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to the local file `path`."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target, "the checkpoint") as part:
            with open(part, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.name == "last.ckpt" and target.exists():
                link_checkpoint(target, target.with_name("previous.ckpt"))

    def load_checkpoint(
        self, path: _PATH, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, without the paths in the states of its callbacks that lead out of its folder.

        Lightning's ModelCheckpoint removes the files that its state names.
        """
        content: dict[str, Any] = super().load_checkpoint(path, map_location=map_location, weights_only=True)
        states = content.get("callbacks")
        for state in states.values() if isinstance(states, dict) else ():
            if isinstance(state, dict):
                _forget_places(state, Path(path).absolute().parent)
        return content

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a file, or the folder that a strategy of several processes writes in its place; nothing else."""
        target = Path(path)
        if target.is_symlink() or target.is_file():
            target.unlink(missing_ok=True)
        elif any((target / name).is_file() for name in _SHARDED):
            shutil.rmtree(target)
        elif target.exists():
            raise ValueError(f"{target} is no checkpoint, and is not removed: move it away.")


def _forget_places(state: dict[str, Any], folder: Path) -> None:
    """Blank the paths of a callback's state that are not below a folder, in place."""
    for name, value in list(state.items()):
        if name == "best_k_models":
            pairs = value.items() if isinstance(value, dict) else ()
            state[name] = {path: score for path, score in pairs if _is_below(path, folder)}
        elif (name.endswith("_path") or name == "dirpath") and not _is_below(value, folder):
            state[name] = ""


def _is_below(path: Any, folder: Path) -> bool:
    """Tell whether a path is that of a folder or leads to something in it; those of other systems are not."""
    if not isinstance(path, str) or "://" in path or "\0" in path:
        return False
    found = Path(os.path.abspath(path))
    return found == folder or (found.is_relative_to(folder) and found.resolve().is_relative_to(folder.resolve()))


def link_checkpoint(source: Path, target: Path) -> None:
    """Give the checkpoint `source` a second name, replacing `target` in one step and copying no bytes."""
    with atomic_write(target, "the checkpoint") as part:
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # a file system without hard links
            part.write_bytes(source.read_bytes())
