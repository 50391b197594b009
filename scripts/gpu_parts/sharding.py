"""MAE under FSDP, on all devices up to two, against one process."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from gpu_parts.setting import Setting, require
from lit_cv.cli import main as lit_cv
from lit_cv.metrics_table import read_metrics

__all__ = ["items", "run"]

STEPS, BATCH = 6, 64
TOLERANCE = 0.02  # relative difference of the loss of the last step


def items(setting: Setting) -> dict[str, list[str]]:
    """Return strategy and number of devices; FSDP needs a GPU, so a CPU checks DDP with one rank."""
    if setting.device == "cpu":
        return {"items": ["ddp 1"]}
    return {"items": [f"fsdp {min(2, torch.cuda.device_count())}"]}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Train in one process without the strategy, then with it, and compare the losses."""
    strategy, devices = item.split()
    folder = setting.new_folder("alone")
    lit_cv(_arguments(setting, folder, "auto", "1", BATCH))
    alone = _losses(folder)
    folder = setting.new_folder("sharded")
    arguments = _arguments(setting, folder, strategy, devices, BATCH // int(devices))
    ended = subprocess.run([sys.executable, "-m", "lit_cv", *arguments], cwd=folder, capture_output=True, text=True)
    require(ended.returncode == 0, f"exit code {ended.returncode}: {ended.stderr.strip()[-250:]}")
    sharded = _losses(folder)
    require(len(alone) == len(sharded) > 0, f"{len(alone)} and {len(sharded)} losses")
    require(all(map(math.isfinite, sharded)), f"the losses are {sharded}")
    values = {"loss": round(sharded[-1], 5), "loss_of_one_process": round(alone[-1], 5), "world": int(devices)}
    if devices == "1":  # masks depend on the rank
        difference = abs(sharded[-1] / alone[-1] - 1)
        require(difference < TOLERANCE, f"the losses are {sharded[-1]:.5f} and, in one process, {alone[-1]:.5f}")
    return values


def _arguments(setting: Setting, folder: Path, strategy: str, devices: str, batch: int) -> list[str]:
    options = {
        "trainer.strategy": strategy,
        "trainer.devices": devices,
        "trainer.accelerator": "gpu" if setting.device == "cuda" else "cpu",
        "trainer.precision": "32-true",
        "trainer.gradient_clip_val": "null",  # Lightning cannot clip by norm under FSDP
        "trainer.max_steps": 2 if setting.tiny else STEPS,
        "trainer.log_every_n_steps": 1,
        "trainer.limit_val_batches": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.default_root_dir": folder,
        "data.batch_size": batch,
    }
    return ["fit", "--config", "mae", *(text for key, value in options.items() for text in (f"--{key}", str(value)))]


def _losses(folder: Path) -> list[float]:
    rows = read_metrics(folder / "lightning_logs" / "version_0" / "metrics.csv")
    return [float(row["train_loss_step"]) for row in rows if row.get("train_loss_step") not in (None, "")]
