import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.checkpoint_io import AtomicCheckpointIO, link_checkpoint


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "run" / "best.ckpt"
    io.save_checkpoint({"value": 1}, path)

    def half_written(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="no space"):
        io.save_checkpoint({"value": 2}, path)
    monkeypatch.undo()
    assert torch.load(path)["value"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["best.ckpt"]


def test_the_last_checkpoint_keeps_the_one_before(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    for value in (1, 2, 3):
        io.save_checkpoint({"value": value}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt")["value"] == 3
    assert torch.load(tmp_path / "previous.ckpt")["value"] == 2


def test_a_linked_checkpoint_keeps_its_content_when_the_source_is_written_again(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint({"value": 1}, tmp_path / "last.ckpt")
    link_checkpoint(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    assert (tmp_path / "best.ckpt").stat().st_ino == (tmp_path / "last.ckpt").stat().st_ino
    io.save_checkpoint({"value": 2}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "best.ckpt")["value"] == 1


class Full:
    """A file on a disk that is full after some bytes, of which torch's writer makes an error of its own."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_full_disk_is_one_clear_error_and_both_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    for value in (1, 2):
        io.save_checkpoint({"value": value}, path)
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, Full(file, 600)))
    with pytest.raises(
        OSError, match=r"the checkpoint .*last\.ckpt could not be written \(No space left.*still whole"
    ) as e:
        io.save_checkpoint({"value": torch.zeros(1000)}, path)
    assert e.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert [torch.load(tmp_path / name)["value"] for name in ("last.ckpt", "previous.ckpt")] == [2, 1]
    assert {entry.name for entry in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}
