"""Checkpoints that are on disk whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lit_cv.atomic_files import atomic_write

__all__ = ["AtomicCheckpointIO", "link_checkpoint"]


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


def link_checkpoint(source: Path, target: Path) -> None:
    """Give the checkpoint `source` a second name, replacing `target` in one step and copying no bytes."""
    with atomic_write(target, "the checkpoint") as part:
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # a file system without hard links
            part.write_bytes(source.read_bytes())
