"""Compare five strategies of fine-tuning with training from scratch, with 10, 50 and 500 labels per class.

A network is pretrained on all images of half of the classes of Fashion-MNIST. It is then fine-tuned on few labels of
the other half by every strategy of `FineTuneModule`, and compared with the same network trained from random weights.
All runs take the same number of optimizer steps, without augmentation, and are evaluated once, at their end, on the
5,000 test images of the other half. The learning rates were chosen for 10 labels with a seed that is not used here:
1e-3 from scratch (3e-3 was no better), 1e-2 for the classifier and 1e-3 for the backbone in fine-tuning; such short
runs need ten times the defaults.

python scripts/compare_fine_tuning.py --root data --csv fine_tuning.csv --figure docs/fine_tuning.png

It takes about ten minutes on two cores. `--draw` redraws the figure from an existing table.
"""

import argparse
import csv
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch

from datamodules import FashionMNISTDataModule
from lit_cv import FineTuneModule, SupervisedModule
from lit_cv.figures import render, save_png
from lit_cv.figures.canvas import GRAY, INK, PALETTE, new_figure, style_axes

KNOWN, NEW = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
BACKBONE = "resnet9_small"
STAGES = 6
LABELS = (10, 50, 500)
STRATEGIES = (
    "feature_extraction",
    "freeze_backbone",
    "discriminative_lr",
    "full_finetune",
    "gradual_unfreezing",
)
SCRATCH = "from scratch"


def fit(module: L.LightningModule, data: L.LightningDataModule, **length: int) -> None:
    trainer = L.Trainer(
        accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tempfile.gettempdir(), **length,
    )  # fmt: skip
    trainer.fit(module, data)


def pretrain(root: str, epochs: int, folder: Path) -> Path:
    """Train on the known classes, and return the path of the weights."""
    L.seed_everything(0, verbose=False)
    data = FashionMNISTDataModule(root=root, classes=KNOWN, batch_size=128, val_fraction=0.0)
    module = SupervisedModule(backbone=BACKBONE, optimizer="sgd", lr=0.1, weight_decay=5e-4, schedule="one_cycle")
    fit(module, data, max_epochs=epochs)
    print(f"pretrained: {100 * accuracy(module, data):.2f} % on the test images of the known classes", flush=True)
    path = folder / "pretrained.pt"
    torch.save(module.backbone.state_dict(), path)
    return path


@torch.no_grad()
def accuracy(module: L.LightningModule, data: FashionMNISTDataModule) -> float:
    """Return the share of correctly classified test images."""
    module.eval()
    right = [module(b["image"]).argmax(1) == b["label"] for b in data.ordered_loader(data.test_dataset)]
    return float(torch.cat(right).float().mean())


def run(args: argparse.Namespace, weights: Path, labels: int, method: str, seed: int) -> float:
    """Train on a few labels of the new classes, and return the test accuracy."""
    L.seed_everything(seed, verbose=False)
    data = FashionMNISTDataModule(
        root=args.root, classes=NEW, labels_per_class=labels, batch_size=min(50, 5 * labels), val_fraction=0.0,
        split_seed=seed,
    )  # fmt: skip
    epochs = args.steps * data.batch_size // (5 * labels)
    options: dict[str, Any] = {"backbone": BACKBONE, "warmup_epochs": epochs / 10}
    if method == SCRATCH:
        module: L.LightningModule = SupervisedModule(lr=1e-3, **options)
    else:
        if method == "gradual_unfreezing":  # everything is trained after half of the steps
            options["unfreeze_epochs"] = [epochs * (k + 1) // (2 * STAGES) for k in range(STAGES)]
        if method == "feature_extraction":
            options["cache_features"] = True
        else:
            options["backbone_lr"] = 1e-3
        module = FineTuneModule(strategy=method, weights=str(weights), lr=1e-2, **options)
    fit(module, data, max_epochs=epochs, max_steps=args.steps)
    assert module.global_step == args.steps
    return accuracy(module, data)


def results(args: argparse.Namespace, weights: Path) -> Iterator[dict[str, Any]]:
    cells = [(n, m, s) for s in range(args.seeds) for n in LABELS for m in (SCRATCH, *STRATEGIES)]
    start = time.monotonic()
    for done, (labels, method, seed) in enumerate(cells, 1):
        test_accuracy = run(args, weights, labels, method, seed)
        left = (time.monotonic() - start) * (len(cells) - done) / done
        print(
            f"run {done} of {len(cells)}, {left // 60:.0f}:{left % 60:02.0f} left: {labels} labels, seed {seed}, "
            f"{method}: {100 * test_accuracy:.2f} %",
            flush=True,
        )
        yield {"labels_per_class": labels, "method": method, "seed": seed, "test_acc": round(test_accuracy, 5)}


def summarize(rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return mean and standard deviation over seeds, in percent, for each method and number of labels."""
    table = {}
    for method in (*STRATEGIES, SCRATCH):
        cells = [
            [100 * float(row["test_acc"]) for row in rows
             if row["method"] == method and int(row["labels_per_class"]) == labels]
            for labels in LABELS
        ]  # fmt: skip
        table[method] = [(statistics.mean(c), statistics.stdev(c) if len(c) > 1 else 0.0) for c in cells]
    return table


def show(table: dict[str, list[tuple[float, float]]]) -> None:
    print("| | " + " | ".join(f"{labels} labels per class" for labels in LABELS) + " |")
    print("|---|" + "---|" * len(LABELS))
    for method, cells in table.items():
        print(f"| {method} | " + " | ".join(f"{mean:.1f} ± {spread:.1f}" for mean, spread in cells) + " |")


def draw(table: dict[str, list[tuple[float, float]]], path: str) -> None:
    figure = new_figure(6.4, 4.2, constrained=True)
    axes = figure.add_subplot()
    for (method, cells), color in zip(table.items(), PALETTE, strict=False):
        means, spreads = zip(*cells, strict=True)
        scratch = method == SCRATCH
        axes.errorbar(
            LABELS, means, spreads, color=INK if scratch else color, marker="o", markersize=4, capsize=3,
            linestyle="--" if scratch else "-", linewidth=1.5, label=method.replace("_", " "),
        )  # fmt: skip
    style_axes(axes, "Fashion-MNIST: five known classes to five new ones")
    axes.set_xscale("log")
    axes.set_xticks(LABELS, [str(labels) for labels in LABELS])
    axes.xaxis.set_minor_locator(__import__("matplotlib.ticker", fromlist=["x"]).NullLocator())
    axes.set_xlabel("labels of each new class", fontsize=8, color=INK)
    axes.set_ylabel("test accuracy in %", fontsize=8, color=INK)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.spines["left"].set_color(GRAY)
    save_png(render(figure), path)


def main() -> None:
    """Run the comparison, or redraw the figure of an earlier one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of Fashion-MNIST")
    parser.add_argument("--csv", default="fine_tuning.csv", help="table of all runs")
    parser.add_argument("--figure", default="fine_tuning.png", help="figure to write")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="epochs of pretraining")
    parser.add_argument("--draw", action="store_true", help="redraw the figure of --csv, without training")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    if args.draw:
        with open(args.csv, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        with tempfile.TemporaryDirectory() as folder, open(args.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["labels_per_class", "method", "seed", "test_acc"])
            writer.writeheader()
            for row in results(args, pretrain(args.root, args.epochs, Path(folder))):
                writer.writerow(row)
                file.flush()
                rows.append(row)
    table = summarize(rows)
    show(table)
    draw(table, args.figure)


if __name__ == "__main__":
    main()
