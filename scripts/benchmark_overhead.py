"""Time per step of `lit-cv fit` against a bare PyTorch loop on the same network, batches and optimizer.

The two run in turn in one process, the fit with all that a recipe switches on: TensorBoard, metrics.csv, progress
bar, checkpoints, figures, the training accuracy and the seeding of each step. Both read the same loader.

    python scripts/benchmark_overhead.py --threads 2
"""

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
import time
from importlib import import_module
from typing import Any, ClassVar

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from datamodules import ShapesDataModule
from lit_cv import SupervisedModule
from lit_cv.cli import main as lit_cv
from lit_cv.optim import build_optimizer, build_schedule, parameter_groups

STEPS = 400
# (backbone, pixels, batch): steps from about 2 ms to more than 20 ms on two cores
CASES = [("conv4", 16, 16), ("conv4", 32, 16), ("conv4", 32, 32), ("resnet9", 32, 32), ("resnet9", 32, 64)]


class StepClock(L.Callback):
    """Takes the time at the start of each training step."""

    starts: ClassVar[list[float]] = []  # the command line builds the callback, and nothing else hands it out

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Take the time."""
        self.starts.append(time.perf_counter())


def fit(backbone: str, pixels: int, batch: int) -> list[float]:
    """Return the seconds of each step of a fit."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        options = {
            "--config": "supervised",
            "--data": "ShapesDataModule",
            "--data.image_size": pixels,
            "--data.num_images": STEPS * batch * 10 // 8,
            "--data.batch_size": batch,
            "--model.backbone": backbone,
            "--model.stem": "standard",
            "--trainer.max_steps": STEPS,
            "--trainer.limit_val_batches": 1,
            "--trainer.default_root_dir": folder,
            "--trainer.callbacks": '[{"class_path": "benchmark_overhead.StepClock"}]',
        }
        lit_cv(["fit", *(str(token) for pair in options.items() for token in pair)])
    starts = import_module("benchmark_overhead").StepClock.starts  # not this file's, which runs as __main__
    seconds = [b - a for a, b in itertools.pairwise(starts)]
    starts.clear()
    return seconds


def bare(backbone: str, pixels: int, batch: int) -> list[float]:
    """Return the seconds of each step of a loop without Lightning that does what the recipe asks for."""
    L.seed_everything(0, verbose=False)
    data = ShapesDataModule(image_size=pixels, num_images=STEPS * batch * 10 // 8, batch_size=batch)
    data.prepare_data()
    data.setup("fit")
    network = {"backbone": backbone, "num_classes": data.num_classes, "in_channels": 3, "stem": "standard"}
    model = SupervisedModule(dropout=0.1, **network).train()
    model.configure_model()
    groups = parameter_groups(model, lr=1e-3, weight_decay=0.05)
    optimizer = build_optimizer("adamw", groups, lr=1e-3)
    schedule = build_schedule("one_cycle", optimizer, total_steps=STEPS)
    starts = []
    for step, item in enumerate(data.train_dataloader()):
        if step == STEPS:
            break
        starts.append(time.perf_counter())
        loss = F.cross_entropy(model.head(model.backbone(item["image"])), item["label"], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return [b - a for a, b in itertools.pairwise(starts)]


def main() -> None:
    """Print a table of medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{'network':<10}{'pixels':>7}{'batch':>6}{'bare ms':>9}{'fit ms':>9}{'ratio of medians':>18}{'of means':>10}"
    )
    for case in CASES:
        loops, fits = [], []
        for _ in range(args.rounds):
            loops += bare(*case)[50:]
            fits += fit(*case)[50:]
        a, b = statistics.median(loops), statistics.median(fits)
        means = statistics.fmean(fits) / statistics.fmean(loops)
        print(
            f"{case[0]:<10}{case[1]:>7}{case[2]:>6}{a * 1e3:>9.2f}{b * 1e3:>9.2f}{b / a:>18.3f}{means:>10.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
