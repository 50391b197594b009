"""A killed and resumed run ends with the same weights, bit for bit, as an uninterrupted one."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gpu_parts.setting import Setting, require
from lit_cv.callbacks import RunCheckpoint
from lit_cv.cli import main as lit_cv

__all__ = ["items", "run"]

STEPS, KILLED_AT, EVERY = 12, 7, 3
KEYS = ("state_dict", "optimizer_states", "lr_schedulers", "ema", "global_step")
RECIPES = ("supervised", "simclr", "mae", "semi_supervised")


def items(setting: Setting) -> dict[str, list[str]]:
    """Return the recipes."""
    return {"items": list(RECIPES[:1] if setting.tiny else RECIPES)}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Train without an interruption; then kill a run in the middle, resume it, and compare the checkpoints."""
    try:
        return _compare(item, setting)
    finally:
        torch.use_deterministic_algorithms(False)


def _compare(item: str, setting: Setting) -> dict[str, Any]:
    mode, reason = "true", ""
    try:
        folder = _fit(item, setting, mode)
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        mode, reason = "warn", str(error).splitlines()[0]
        folder = _fit(item, setting, mode)
    killed = setting.new_folder(f"{item}_killed")
    numbers = [str(KILLED_AT), str(torch.get_num_threads())]  # another number of threads would round differently
    command = [sys.executable, "-m", "gpu_parts.resume", *numbers, *_arguments(item, setting, mode, killed)]
    ended = subprocess.run(command, cwd=killed, capture_output=True, text=True)
    require(ended.returncode == -signal.SIGKILL, f"the run was not killed: {ended.stderr[-300:]}")
    saved = _last(killed)["global_step"]
    require(0 < saved < STEPS, f"the killed run saved step {saved}")
    lit_cv([*_arguments(item, setting, mode, killed), "--ckpt_path", "last"])
    expected, resumed = _last(folder), _last(killed)
    require(expected["global_step"] == STEPS, f"the run ended at step {expected['global_step']}")
    different = [path for key in KEYS for path in _differences(expected.get(key), resumed.get(key), key)]
    require(not different, f"{len(different)} values differ, such as {', '.join(different[:3])}")
    tensors = sum(isinstance(value, Tensor) for value in expected["state_dict"].values())
    return {"resumed_at": saved, "equal_tensors": tensors, "deterministic": mode, "detail": reason}


def _fit(item: str, setting: Setting, mode: str) -> Path:
    folder = setting.new_folder(item)
    lit_cv(_arguments(item, setting, mode, folder))
    return folder


def _arguments(item: str, setting: Setting, mode: str, folder: Path) -> list[str]:
    options = {
        "trainer.max_steps": STEPS,
        "trainer.limit_train_batches": 4,
        "trainer.limit_val_batches": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.deterministic": mode,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.default_root_dir": folder,
        "trainer.accelerator": "gpu" if setting.device == "cuda" else "cpu",
        "trainer.devices": 1,
        "checkpoint.every_n_steps": EVERY,
    }
    return ["fit", "--config", item, *(text for key, value in options.items() for text in (f"--{key}", str(value)))]


def _last(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("lightning_logs/version_*/checkpoints/last.ckpt")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _differences(a: Any, b: Any, path: str) -> list[str]:
    """Return the paths at which two nested values differ."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) else [path]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [place for key in a for place in _differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [place for i, pair in enumerate(zip(a, b, strict=True)) for place in _differences(*pair, f"{path}/{i}")]
    return [] if a == b or (a != a and b != b) else [path]


def _run_until_killed() -> None:
    """Run the command line, and kill this process at the start of a step.

    The command is `python -m gpu_parts.resume STEP THREADS fit ...`.
    """
    step = int(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    start = RunCheckpoint.on_train_batch_start

    def kill(callback: RunCheckpoint, trainer: L.Trainer, *arguments: Any) -> None:
        if trainer.global_step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        start(callback, trainer, *arguments)

    RunCheckpoint.on_train_batch_start = kill  # type: ignore[method-assign]
    lit_cv(sys.argv[3:])


if __name__ == "__main__":
    _run_until_killed()
