import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.checkpoint_io import AtomicCheckpointIO, link_checkpoint


def test_failed_write_keeps_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "run" / "best.ckpt"
    io.save_checkpoint({"value": 1}, path)

    def write_half(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(OSError, match="no space"):
        io.save_checkpoint({"value": 2}, path)
    monkeypatch.undo()
    assert torch.load(path)["value"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["best.ckpt"]


def test_previous_checkpoint_is_kept(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    for value in (1, 2, 3):
        io.save_checkpoint({"value": value}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt")["value"] == 3
    assert torch.load(tmp_path / "previous.ckpt")["value"] == 2


def test_linked_checkpoint_survives_new_write_of_source(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint({"value": 1}, tmp_path / "last.ckpt")
    link_checkpoint(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    assert (tmp_path / "best.ckpt").stat().st_ino == (tmp_path / "last.ckpt").stat().st_ino
    io.save_checkpoint({"value": 2}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "best.ckpt")["value"] == 1


class FileOnFullDisk:
    """A file on a disk that is full after some bytes; torch's writer replaces its error by another one."""

    def __init__(self, file: Any, free: int) -> None:
        self.file, self.free = file, free

    def write(self, data: Any) -> int:
        self.free -= len(data)
        if self.free < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_full_disk_keeps_both_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    for value in (1, 2):
        io.save_checkpoint({"value": value}, path)
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, FileOnFullDisk(file, 600)))
    with pytest.raises(
        OSError, match=r"the checkpoint .*last\.ckpt could not be written \(No space left.*file is intact"
    ) as e:
        io.save_checkpoint({"value": torch.zeros(1000)}, path)
    assert e.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert [torch.load(tmp_path / name)["value"] for name in ("last.ckpt", "previous.ckpt")] == [2, 1]
    assert {entry.name for entry in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}
