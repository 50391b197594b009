"""Hostile files, and helpers that check that they have no effect."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.cli import console

QUICK = [
    "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
]  # fmt: skip
SUPERVISED = "lit_cv.modules.supervised.SupervisedModule"
MARKER = "code_has_run"
EVIL = f"""
open({MARKER!r}, "w").close()
import lightning as L
from lit_cv import BaseModule
from lit_cv.tasks import Task
from datamodules import BaseDataModule

class EvilModule(BaseModule): pass
class EvilData(BaseDataModule): pass
class EvilCallback(L.Callback): pass
class EvilTask(Task): pass
"""


def save_hostile(path: Path, class_path: Any = SUPERVISED, hyper_parameters: Any = None, **fields: Any) -> Path:
    """Write a hostile checkpoint that `torch.load` accepts with `weights_only=True`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": {"head.weight": torch.zeros(10, 4)},
        "hyper_parameters": {} if hyper_parameters is None else hyper_parameters,
        "global_step": 5,
        "lit_cv": {"class_path": class_path},
        "pytorch-lightning_version": "2.6.6",
    }
    torch.save({**content, **fields}, path)
    return path


def error_line(args: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run the program in this process, and return its one-line error, `None` if it succeeds."""
    monkeypatch.setattr(sys, "argv", ["lit-cv", *args])
    code: Any = None
    try:
        console()
    except SystemExit as end:
        code = end.code
    if code in (None, 0):
        return None
    assert isinstance(code, str), code
    assert "\n" not in code
    assert "\x1b" not in code
    return code


def run_program(args: list[str], folder: Path, code: str = "console()") -> "subprocess.CompletedProcess[str]":
    """Run the program like a console script, without the working directory on the import path."""
    root = str(Path(__file__).parent.parent.parent)
    code = f"import sys; sys.path[0] = {root!r}\nfrom lit_cv.cli import console\n{code}"
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    settings.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, "-c", code, *args], cwd=folder, env=settings, capture_output=True, text=True, timeout=180
    )
