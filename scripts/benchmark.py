"""Measure the training step of every approach by precision and memory layout, and relative to the machine's peak.

Each approach trains with its recipe on built-in data (`lit-cv fit`, logging and augmentation on), in turn in float32
and bfloat16, with images and weights in the usual layout and in channels_last, the default of the modules. `share` is
its rate of floating-point operations (counted by torch.utils.flop_counter, forward and backward) relative to that of a
large matrix product in the same precision on the same threads. Times are medians over the steps; `default` marks the
variant that the recipe uses.

    python scripts/benchmark.py --threads 1 --csv benchmark.csv --figure docs/benchmark.png
    python scripts/benchmark.py --approaches resnet18 --compile

The parts of an approach have separate benchmarks: benchmark_data.py, benchmark_augmentation.py, benchmark_simclr.py,
benchmark_mae.py, benchmark_episodes.py, benchmark_features.py. benchmark_overhead.py measures the Trainer and the
command line, benchmark_growth.py how time and memory grow.
"""

import argparse
import contextlib
import csv
import io
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import matplotlib.pyplot as plt
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from lit_cv.cli import main as lit_cv

# The field's standard network on small images, in addition to the recipes' networks.
RESNET18 = {"model.backbone": "resnet18", "data": "ShapesDataModule", "data.image_size": 32, "data.batch_size": 64}
APPROACHES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("supervised", RESNET18),
    **{
        name: (name, {})
        for name in (
            "supervised", "fine_tune", "simclr", "mae", "detection", "segmentation", "multi_task", "adversarial", "mmd",
            "self_training", "prototypical", "relation", "maml",
        )
    },
}  # fmt: skip
VARIANTS = {
    "fp32, usual layout": ("32-true", False),
    "fp32": ("32-true", True),
    "bf16, usual layout": ("bf16-mixed", False),
    "bf16": ("bf16-mixed", True),
}
COLUMNS = ("approach", "variant", "default", "milliseconds", "images_per_second", "gflop", "share")


class Meter(L.Callback):
    """Records the start time of each step, counts operations and images, and sets the memory layout."""

    starts: ClassVar[list[float]] = []
    flop: ClassVar[list[float]] = []
    images: ClassVar[list[int]] = []
    count: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True
    clock: ClassVar[Callable[[], float]] = time.process_time

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the memory layout of the weights."""
        if not self.channels_last:
            pl_module.to(memory_format=torch.contiguous_format)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *args: Any) -> None:
        """Record the start time and the number of images, and start counting operations."""
        self.images.append(image_count(batch))
        self.starts.append(type(self).clock())
        if self.count:
            counter: Any = FlopCounterMode(display=False)
            self.counter = counter
            counter.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        """Record the counted operations."""
        if self.count:
            self.counter.__exit__(None, None, None)
            self.flop.append(self.counter.get_total_flops())


def image_count(batch: Any) -> int:
    """Return the number of images in a batch of any approach, before augmentation."""
    if isinstance(batch.get("image"), torch.Tensor):
        return int(batch["image"].shape[:-3].numel())
    return sum(image_count(part) for part in batch.values() if isinstance(part, dict))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard the output of the command line."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def fit(name: str, steps: int, precision: str, channels_last: bool, compiled: bool, count: bool = False) -> Any:
    """Train an approach for some steps, and return the class with the measurements."""
    meter: Any = import_module("benchmark").Meter  # the class that the command line builds; this file is __main__
    meter.starts.clear(), meter.flop.clear(), meter.images.clear()
    meter.count, meter.channels_last = count, channels_last
    config, changes = APPROACHES[name]
    with tempfile.TemporaryDirectory() as folder, silence():
        options: dict[str, Any] = {
            **changes,
            "trainer.max_steps": steps,
            "trainer.max_epochs": 1000,
            "trainer.limit_val_batches": 0,
            "trainer.precision": precision,
            "trainer.accelerator": "cpu",
            "trainer.enable_progress_bar": "false",
            "trainer.enable_model_summary": "false",
            "trainer.default_root_dir": folder,
        }
        if compiled:
            options["model.compile"] = "true"
        tokens = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        lit_cv(["fit", "--config", config, *tokens, "--trainer.callbacks+=benchmark.Meter"])
    return meter


def matmul_rate(dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product."""
    a, b = torch.randn(2, 1536, 1536).to(dtype)
    took = []
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        took.append(time.perf_counter() - start)
    return 2 * 1536**3 / min(took)


def measure(name: str, args: argparse.Namespace, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Return the rows of one approach."""
    config = yaml.safe_load((files("lit_cv") / "recipes" / f"{APPROACHES[name][0]}.yaml").read_text())
    default = config["trainer"].get("precision", "32-true")
    counted = fit(name, 2, "32-true", True, False, count=True)
    flop, images = counted.flop[-1], counted.images[-1]
    variants = {label: (*variant, False) for label, variant in VARIANTS.items()}
    if args.compile:
        variants |= {"fp32, compiled": ("32-true", True, True), "bf16, compiled": ("bf16-mixed", True, True)}
    times: dict[str, list[float]] = {label: [] for label in variants}
    for _ in range(args.rounds):
        for label, (precision, channels_last, compiled) in variants.items():
            starts = fit(name, args.steps, precision, channels_last, compiled).starts
            times[label] += [b - a for a, b in itertools.pairwise(starts[args.steps // 4 :])]
    rows = []
    for label, (precision, channels_last, compiled) in variants.items():
        seconds = statistics.median(times[label])
        values = (
            name,
            label,
            "yes" if precision == default and channels_last and not compiled else "",
            round(seconds * 1e3, 2),
            round(images / seconds),
            round(flop / 1e9, 3),
            round(flop / seconds / rates[precision], 3),
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """Draw the speed of each variant relative to float32 in the usual layout, and its share of the matrix rate."""
    names = list(dict.fromkeys(row["approach"] for row in rows))
    labels = list(dict.fromkeys(row["variant"] for row in rows))
    cells = {(row["approach"], row["variant"]): row for row in rows}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.42 * len(names) + 1.6), sharey=True, layout="constrained")
    height = 0.8 / len(labels)
    for i, label in enumerate(labels):
        measured = [(place, cells[name, label]) for place, name in enumerate(names) if (name, label) in cells]
        places = [place + (i - (len(labels) - 1) / 2) * height for place, _ in measured]
        base = [float(cells[row["approach"], labels[0]]["milliseconds"]) for _, row in measured]
        speeds = [first / float(row["milliseconds"]) for first, (_, row) in zip(base, measured, strict=True)]
        left.barh(places, speeds, height, label=label)
        right.barh(places, [100 * float(row["share"]) for _, row in measured], height)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.axvline(1, color="gray", linewidth=0.8)
    left.set_xlabel(f"speed relative to {labels[0]}")
    right.set_xlabel("% of the rate of a matrix product")
    left.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print a table and draw a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--approaches", nargs="+", choices=APPROACHES, default=list(APPROACHES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=24, help="steps of each fit; the first quarter is not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, which takes minutes")
    parser.add_argument("--csv", default="benchmark.csv", help="results; approaches in it are not measured again")
    parser.add_argument("--figure", default="benchmark.png")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.threads > 1:
        meter: Any = import_module("benchmark").Meter
        meter.clock = time.perf_counter
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rates = {"32-true": matmul_rate(torch.float32), "bf16-mixed": matmul_rate(torch.bfloat16)}
    print(f"matrix product: {', '.join(f'{key} {value / 1e9:.0f} Gflop/s' for key, value in rates.items())}")
    rows: list[dict[str, Any]] = []
    if Path(args.csv).is_file():
        with open(args.csv, newline="") as file:
            rows = list(csv.DictReader(file))
    print("".join(f"{name:>20}" for name in COLUMNS))
    for name in args.approaches:
        if not any(row["approach"] == name for row in rows):
            rows += measure(name, args, rates)
            with open(args.csv, "w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
        for row in rows:
            if row["approach"] == name:
                print("".join(f"{row[column]:>20}" for column in COLUMNS), flush=True)
    draw(rows, args.figure)


if __name__ == "__main__":
    main()
