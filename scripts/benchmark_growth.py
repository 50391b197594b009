"""Measure how time and memory grow with the size of the problem; an exponent of 1 is linear, 2 quadratic.

    python scripts/benchmark_growth.py --csv docs/growth.csv --figure docs/growth.png

- batch: a training step of a small residual network on 32-pixel images, by the batch size
- pixels: a step of 16 images, by the pixels of an image
- images: setup of a DataModule and reading of 50 batches, by the size of the set; images are drawn when they are read
- classes: a step, the validation and the metrics of a classifier, by the number of classes
- ntxent: NT-Xent forward and backward, by the number of embeddings
- knn: nearest neighbors of 200 queries, by the size of the bank

Each point runs in a separate process with one thread. Time is the median CPU time of the rounds; memory is the rise of
the peak resident memory. The exponent is the slope between the last two points on logarithmic axes, where fixed costs,
such as the start of an epoch, hardly count. Points in the table are not measured again: delete their rows, or use
another file.
"""

import argparse
import csv
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from datamodules import ShapesDataModule
from lit_cv import SupervisedModule
from lit_cv.figures.canvas import BLUE, INK, ORANGE, new_figure, render, save_png, style_axes
from lit_cv.losses import NTXentLoss
from lit_cv.metrics import knn_predictions
from lit_cv.nn import create_backbone

Work = Callable[[], object]
SIZES = {
    "batch": [16, 32, 64, 128, 256, 512],
    "pixels": [32**2, 64**2, 128**2, 256**2],
    "images": [1_000, 10_000, 100_000, 1_000_000],
    "classes": [10, 100, 1_000, 10_000, 100_000],
    "ntxent": [256, 512, 1_024, 2_048, 4_096, 8_192],
    "knn": [1_000, 10_000, 100_000, 1_000_000],
}
COLUMNS = ("what", "size", "milliseconds", "MiB")
TITLES = {
    "batch": ("training step of 32-pixel images", "images in the batch"),
    "pixels": ("training step of 16 images", "pixels of an image"),
    "images": ("setup and reading of 50 batches", "images in the set"),
    "classes": ("classifier: step, validation, metrics", "classes"),
    "ntxent": ("NT-Xent, forward and backward", "embeddings"),
    "knn": ("nearest neighbors of 200 images", "images in the bank"),
}


def training_step(batch: int, side: int) -> Work:
    """Return a function that does a training step of a network."""
    network = create_backbone("resnet9", in_channels=3, image_size=side).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)

    def work() -> None:
        network(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def reading(count: int) -> Work:
    """Return a function that sets up a data set of this size and reads a few batches."""

    def work() -> None:
        data = ShapesDataModule(num_images=count, image_size=16, batch_size=8)
        data.prepare_data()
        data.setup("fit")
        for _ in islice(data.train_dataloader(), 50):
            pass

    return work


def classifying(classes: int) -> Work:
    """Return a function that does a training step and a validation step of a classifier, and computes its metrics."""
    module = SupervisedModule(backbone="conv4", num_classes=classes, in_channels=1, image_size=16)
    module.configure_model()
    metrics: Any = module.metrics["val"]
    images = torch.randint(0, 256, (32, 1, 16, 16), dtype=torch.uint8)
    batch = {"image": images, "label": torch.randint(classes, (32,))}

    def work() -> None:
        module.train()
        module.step(batch, "train")["loss"].backward()
        module.zero_grad()
        module.eval()
        with torch.no_grad():
            module._run_step(batch, "val")
        metrics.compute()

    return work


def nt_xent(count: int) -> Work:
    """Return a function that computes the loss of two views of `count // 2` images, and its gradient."""
    loss = NTXentLoss(0.5)

    def work() -> None:
        loss(*(torch.randn(count // 2, 128, requires_grad=True) for _ in range(2))).backward()

    return work


def nearest_neighbors(count: int) -> Work:
    """Return a function that classifies queries by their nearest neighbors in a bank."""
    bank = F.normalize(torch.randn(count, 128), dim=1)
    labels, queries = torch.randint(10, (count,)), torch.randn(200, 128)
    return lambda: knn_predictions(queries, bank, labels, 10, k=[20])


def create(what: str, size: int) -> Work:
    """Return the function that is measured at one point."""
    if what == "batch":
        return training_step(size, 32)
    if what == "pixels":
        return training_step(16, math.isqrt(size))
    return {"images": reading, "classes": classifying, "ntxent": nt_xent, "knn": nearest_neighbors}[what](size)


def resident(name: str) -> int:
    """Return a memory value of this process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def point(what: str, size: int, rounds: int) -> None:
    """Print the milliseconds and the memory in MiB of one point."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    create(what, SIZES[what][0])()  # warm-up: one-time costs of the process
    work = create(what, size)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current resident memory
    before = resident("VmRSS")
    took = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    print(f"{statistics.median(took) * 1e3:.3f} {(resident('VmHWM') - before) / 1024:.0f}")


def exponent(rows: list[dict[str, float]], column: str) -> float:
    """Return the slope between the last two points on logarithmic axes."""
    (x0, y0), (x1, y1) = ((row["size"], max(row[column], 1)) for row in rows[-2:])
    return math.log(y1 / y0) / math.log(x1 / x0)


def draw(points: dict[str, list[dict[str, float]]], path: str) -> None:
    """Draw time and memory of each measurement by its size."""
    figure = new_figure(11.5, 6.8, constrained=True)
    for place, (what, rows) in enumerate(points.items(), 1):
        axes = figure.add_subplot(-(-len(points) // 3), 3, place)
        sizes = [row["size"] for row in rows]
        times, memory = [row["milliseconds"] for row in rows], [max(row["MiB"], 0.5) for row in rows]
        style = {"markersize": 4, "linewidth": 1.5}
        axes.loglog(sizes, times, "o-", color=BLUE, label="CPU time in milliseconds", **style)
        axes.loglog(sizes, memory, "s--", color=ORANGE, label="memory in MiB", **style)
        title, unit = TITLES[what]
        style_axes(axes, f"{title}\n")
        powers = [exponent(rows, column) for column in ("milliseconds", "MiB")]
        text = "last two sizes: time to the power {:.2f}, memory {:.2f}".format(*powers)
        axes.text(0, 1.03, text, transform=axes.transAxes, fontsize=8, color=INK)
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel(unit, fontsize=8, color=INK)
        axes.set_ylabel("milliseconds, MiB", fontsize=8, color=INK)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    save_png(render(figure), path)


def read(path: Path) -> dict[str, list[dict[str, float]]]:
    """Return the points in a table."""
    points: dict[str, list[dict[str, float]]] = {}
    if path.is_file():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                points.setdefault(row["what"], []).append({name: float(row[name]) for name in COLUMNS[1:]})
    return points


def write(points: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Write all points to a table."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for what, rows in points.items():
            writer.writerows([what, f"{row['size']:.0f}", row["milliseconds"], f"{row['MiB']:.0f}"] for row in rows)


def measure(what: str, size: int, rounds: int) -> dict[str, float]:
    """Return the row of a point, measured in a separate process."""
    command = [sys.executable, __file__, "--what", what, "--point", str(size), "--rounds", str(rounds)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {"size": size, "milliseconds": float(printed[-2]), "MiB": float(printed[-1])}


def main() -> None:
    """Measure the points that are missing from the table, print all with the exponents, and draw a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path, default="growth.csv")
    parser.add_argument("--figure", default="growth.png")
    parser.add_argument("--point", type=int, help=argparse.SUPPRESS)  # measure the first of `what` in this process
    args = parser.parse_args()
    if args.point:
        point(args.what[0], args.point, args.rounds)
        return
    points = read(args.csv)
    print(f"{'':10}{'size':>10}{'ms':>12}{'MiB':>8}")
    for what in args.what:
        for size in SIZES[what]:
            measured = {int(row["size"]): row for row in points.get(what, [])}
            if size not in measured:
                measured[size] = measure(what, size, args.rounds)
                points[what] = [measured[key] for key in sorted(measured)]
                write(points, args.csv)
            row = measured[size]
            print(f"{what:10}{size:>10}{row['milliseconds']:>12.3f}{row['MiB']:>8.0f}", flush=True)
        slopes = [exponent(points[what], column) for column in ("milliseconds", "MiB")]
        print(f"{what:10}{'exponent':>10}{slopes[0]:>12.2f}{slopes[1]:>8.2f}", flush=True)
    draw(points, args.figure)


if __name__ == "__main__":
    main()
