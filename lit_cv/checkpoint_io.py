"""Atomic writing of checkpoints, and reading them without paths that lead elsewhere."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lit_cv.atomic_files import atomic_write

__all__ = ["AtomicCheckpointIO", "link_checkpoint"]

_SHARDED = (".metadata", "meta.pt")  # files in the folder of a sharded checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, forces it to disk and renames it in one step.

    If the process is killed while it writes, or the disk is full, the previous file stays. The `last.ckpt` before the
    newest is kept as `previous.ckpt`, in case the disk damages the newest.
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
        """Read a checkpoint, and blank the paths in its callbacks' states that lead out of its folder.

        Lightning's ModelCheckpoint deletes files that its state names.
        """
        content: dict[str, Any] = super().load_checkpoint(path, map_location=map_location, weights_only=True)
        states = content.get("callbacks")
        for state in states.values() if isinstance(states, dict) else ():
            if isinstance(state, dict):
                _forget_places(state, Path(path).absolute().parent)
        return content

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a checkpoint file or the folder of a sharded checkpoint; nothing else is removed."""
        target = Path(path)
        if target.is_symlink() or target.is_file():
            target.unlink(missing_ok=True)
        elif any((target / name).is_file() for name in _SHARDED):
            shutil.rmtree(target)
        elif target.exists():
            raise ValueError(f"{target} is not a checkpoint and was not removed: move it away.")


def _forget_places(state: dict[str, Any], folder: Path) -> None:
    """Blank the paths of a callback's state that are not below a folder, in place."""
    for name, value in list(state.items()):
        if name == "best_k_models":
            pairs = value.items() if isinstance(value, dict) else ()
            state[name] = {path: score for path, score in pairs if _is_below(path, folder)}
        elif (name.endswith("_path") or name == "dirpath") and not _is_below(value, folder):
            state[name] = ""


def _is_below(path: Any, folder: Path) -> bool:
    """Return whether a path is a folder or inside it; URLs and invalid paths are not."""
    if not isinstance(path, str) or "://" in path or "\0" in path:
        return False
    absolute = Path(os.path.abspath(path))
    return absolute == folder or (
        absolute.is_relative_to(folder) and absolute.resolve().is_relative_to(folder.resolve())
    )


def link_checkpoint(source: Path, target: Path) -> None:
    """Make `target` a hard link to the checkpoint `source`, atomically; copy where hard links are not supported."""
    with atomic_write(target, "the checkpoint") as part:
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # a file system without hard links
            part.write_bytes(source.read_bytes())
