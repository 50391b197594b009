"""Measure the time per step of `lit-cv fit`, compared with a bare PyTorch loop on the same network, data and optimizer.

Three variants run in turn in one process: the loop; Lightning's Trainer with everything disabled, on a minimal module;
and the fit with everything that a recipe enables: TensorBoard, metrics.csv, progress bar, checkpoints, figures,
training accuracy, the check for NaN and the seeding of each step. All read the same loader of images in memory. The
difference between the first two is Lightning's overhead, that between the last two this library's. With one thread,
time is the CPU time of the process, which other processes hardly affect.

    python scripts/benchmark_overhead.py --threads 1
    python scripts/benchmark_overhead.py --parts
    python scripts/benchmark_overhead.py --start

`--parts` disables one part of the fit at a time, with the shortest step, and prints the time saved. `--start` prints
the CPU time that the command line needs to start.
"""

import argparse
import contextlib
import io
import itertools
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules import BaseDataModule, InMemoryDataset
from lit_cv import SupervisedModule
from lit_cv.cli import main as lit_cv
from lit_cv.optim import build_optimizer, build_schedule, parameter_groups

STEPS = 400
# (backbone, pixels, batch): steps of the loop take about 1.5, 5, 10, 20 and 40 ms on one thread
CASES = [("conv4", 8, 2), ("conv4", 16, 16), ("conv4", 16, 32), ("conv4", 32, 16), ("conv4", 32, 32)]
PARTS = {
    "the check for NaN": {"--non_finite.action": "ignore"},
    "the progress bar": {"--trainer.enable_progress_bar": "false"},
    "logging each tenth step": {"--trainer.log_every_n_steps": STEPS},
    "gradient clipping, also in the loop": {"--trainer.gradient_clip_val": "null"},
}

Case = tuple[str, int, int]


class Noise(BaseDataModule):
    """Random images of ten classes, as many as the steps need."""

    def __init__(self, image_size: int = 32, num_images: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def load(self, split: str) -> InMemoryDataset | None:  # type: ignore[override]
        """Draw the training images."""
        if split != "train":
            return None
        n, size = self.hparams["num_images"], self.hparams["image_size"]
        images = torch.randint(256, (n, 3, size, size), dtype=torch.uint8)
        return InMemoryDataset(images, torch.arange(n) % 10, [str(label) for label in range(10)])


class StepClock(L.Callback):
    """Records the start time of each training step."""

    starts: ClassVar[list[float]] = []  # of the class, since the command line builds the object
    clock: ClassVar[Callable[[], float]] = time.process_time

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Record the start time."""
        self.starts.append(type(self).clock())


class Smallest(L.LightningModule):
    """The minimal LightningModule for the same training."""

    def __init__(self, network: SupervisedModule) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return loss(self.network, batch)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the per-step schedule."""
        optimizer, schedule = configure(self.network)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def loss(network: SupervisedModule, batch: dict[str, Tensor]) -> Tensor:
    logits = network.head(network.backbone(batch["image"]))
    return F.cross_entropy(logits, batch["label"], label_smoothing=0.1)


def configure(network: SupervisedModule) -> tuple[Any, Any]:
    optimizer = build_optimizer("adamw", parameter_groups(network, lr=1e-3, weight_decay=0.05), lr=1e-3)
    return optimizer, build_schedule("one_cycle", optimizer, total_steps=STEPS)


def setup(case: Case) -> tuple[Noise, SupervisedModule]:
    backbone, pixels, batch = case
    L.seed_everything(0, verbose=False)
    data = Noise(image_size=pixels, num_images=count(batch), batch_size=batch)
    data.setup("fit")
    network = SupervisedModule(dropout=0.1, backbone=backbone, num_classes=10, in_channels=3, stem="standard").train()
    network.configure_model()
    return data, network


def count(batch: int) -> int:
    return STEPS * batch * 10 // 8  # a part is split off for validation


def fit(case: Case, changes: dict[str, Any] | None = None) -> list[float]:
    """Return the start times of the steps of a fit."""
    backbone, pixels, batch = case
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "--config": "supervised",
            "--data": "benchmark_overhead.Noise",
            "--data.image_size": pixels,
            "--data.num_images": count(batch),
            "--data.batch_size": batch,
            "--model.backbone": backbone,
            "--model.stem": "standard",
            "--trainer.max_steps": STEPS,
            "--trainer.limit_val_batches": 1,
            "--trainer.accelerator": "cpu",
            "--trainer.default_root_dir": folder,
            "--trainer.callbacks": '[{"class_path": "benchmark_overhead.StepClock"}]',
            **(changes or {}),
        }
        lit_cv(["fit", *(str(token) for pair in options.items() for token in pair)])
    return list(
        import_module("benchmark_overhead").StepClock.starts
    )  # not the class of this file, which runs as __main__


def lightning(case: Case) -> list[float]:
    """Return the start times of the steps of the Trainer with everything disabled."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # as Lightning sets it
    data, network = setup(case)
    trainer = L.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, gradient_clip_val=1.0,
        callbacks=[StepClock()],
    )  # fmt: skip
    trainer.fit(Smallest(network), train_dataloaders=data.train_dataloader())
    return list(StepClock.starts)


def bare(case: Case) -> list[float]:
    """Return the times at which each step of a loop without Lightning starts."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # torch's default, as without Lightning
    data, network = setup(case)
    optimizer, schedule = configure(network)
    starts = []
    for batch in itertools.islice(data.train_dataloader(), STEPS):
        starts.append(StepClock.clock())
        value = loss(network, batch)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return starts


def milliseconds(runs: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds per step of each variant."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for recorded in (StepClock.starts, import_module("benchmark_overhead").StepClock.starts):
                recorded.clear()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                starts = run()
            times[name] += [b - a for a, b in itertools.pairwise(starts)][50:]
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def start_up(rounds: int) -> None:
    """Print the CPU seconds of commands without training, and of the imports that training needs."""
    commands = {
        "lit-cv --help": ["-m", "lit_cv", "--help"],
        "lit-cv recipes": ["-m", "lit_cv", "recipes"],
        "lit-cv fit --config supervised --print_config": [
            "-m",
            "lit_cv",
            "fit",
            "--config",
            "supervised",
            "--print_config",
        ],
        "import torch, torchvision, lightning": ["-c", "import torch, torchvision, lightning"],
    }
    for name, command in commands.items():
        took = []
        for _ in range(rounds):
            before = os.times()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            after = os.times()
            took.append(after.children_user + after.children_system - before.children_user - before.children_system)
        print(f"{name:<50}{statistics.median(took):6.2f} s", flush=True)


def main() -> None:
    """Print a table of medians and ratios, or the cost of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--start", action="store_true")
    args = parser.parse_args()
    if args.start:
        start_up(args.rounds)
        return
    torch.set_num_threads(args.threads)
    if args.threads > 1:
        for kind in (StepClock, import_module("benchmark_overhead").StepClock):
            kind.clock = time.perf_counter
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if args.parts:
        case = CASES[0]
        runs = {"loop": lambda: bare(case), "Trainer": lambda: lightning(case), "fit": lambda: fit(case)}
        runs |= {name: lambda changes=changes: fit(case, changes) for name, changes in PARTS.items()}  # type: ignore[misc]
        times = milliseconds(runs, args.rounds)
        print(f"loop {times['loop']:.2f} ms, Trainer {times['Trainer']:.2f} ms, fit {times['fit']:.2f} ms, of which")
        for name in PARTS:
            print(f"  {name:<45}{times['fit'] - times[name]:6.2f} ms")
        return
    print(f"{'network':<10}{'pixels':>7}{'batch':>6}{'loop ms':>9}{'Trainer':>9}{'fit':>9}{'ratio':>9}")
    for case in CASES:
        runs = {"loop": lambda c=case: bare(c), "Trainer": lambda c=case: lightning(c), "fit": lambda c=case: fit(c)}  # type: ignore[misc]
        loop, trainer, fitted = milliseconds(runs, args.rounds).values()
        print(
            f"{case[0]:<10}{case[1]:>7}{case[2]:>6}{loop:>9.2f}{trainer:>9.2f}{fitted:>9.2f}{fitted / loop:>9.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
