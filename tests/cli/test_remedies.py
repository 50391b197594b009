"""Machine errors end in one line with advice."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import lit_cv.cli
from lit_cv.cli import console
from lit_cv.cli.remedies import remedy
from tests.cli.test_mistakes import QUICK


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "--data.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), "--data.batch_size"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            "--data.batch_size",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "out of memory: lower --data.num_w"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated."), "not for lack of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault."), "--data.num_workers 0"),
        (RuntimeError("derivative for aten::hardsigmoid_backward is not implemented"), "--model.first_order true"),
        (disk_full(), "The disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/run"), "Choose a writable folder"),
        (PermissionError(errno.EACCES, "Permission denied", "/run"), "Choose a writable folder"),
    ],
)
def test_remedy(error: Exception, advice: str) -> None:
    assert advice in str(remedy(error))


def test_remedy_for_failed_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:20910: Connection reset by peer.")
    assert remedy(error) is None
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert "--ckpt_path last" in str(remedy(error))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a bug"), ValueError("x"), FileNotFoundError(2, "no"), OSError(28, "full (--data.cache false)")],
)
def test_no_remedy_for_other_errors(error: Exception) -> None:
    assert remedy(error) is None


def test_remedy_names_output_option(in_tmp: Path) -> None:
    Path("file.txt").touch()
    with pytest.raises(OSError, match=r"file\.txt") as error:
        Path("file.txt/runs").mkdir(parents=True)
    for typed in (["export", "--output", "file.txt"], ["export", "--output=file.txt/runs", "--dry_run"]):
        assert remedy(error.value, typed) == "Choose a writable folder with --output."
    assert "--trainer.default_root_dir" in str(remedy(error.value, ["fit", "--data.root", "photos"]))


def test_remedy_for_real_allocation_failure() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**56, dtype=torch.uint8)
    assert "--data.batch_size" in str(remedy(error.value))


class Raise(L.Callback):
    """Raises within the second epoch."""

    error: Exception

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == 4:
            raise self.error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nmore lines"), MemoryError()])
def test_out_of_memory_within_epoch(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(Raise, "error", error, raising=False)
    fault = ["--trainer.callbacks+=tests.cli.test_remedies.Raise"]
    monkeypatch.setattr(
        sys, "argv", ["lit-cv", "fit", "--config", "supervised", *QUICK, "--trainer.max_epochs=2", *fault]
    )
    with pytest.raises(SystemExit) as stopped:
        console()
    assert str(stopped.value).startswith("lit-cv: error: ")
    assert "Lower --data.batch_size" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert "Continue with: lit-cv fit --ckpt_path" in capfd.readouterr().err


def test_bug_keeps_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: Any = None) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(lit_cv.cli, "main", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        console()
