"""Compare ways to learn from few labels and many images without, on MNIST, Fashion-MNIST and a folder of photographs.

    python scripts/compare_semi_supervised.py mnist --root data --labels 10       # three draws with three seeds each
    python scripts/compare_semi_supervised.py mnist --root data --labels 10 --paired  # three draws, each with its seed
    python scripts/compare_semi_supervised.py --draw                              # tables of all finished runs

Each method is a chain of recipes with all training images, of which `--labels` of each class have a label; a seed fixes
weights and order, a draw the choice of labels. Pretraining without labels is run once for each seed, and its time
counts for every method that starts from it. Nothing is chosen by labels: the newest weights are evaluated once, on the
test images. Results are written after each run; a restarted script does the missing runs.
"""

import argparse
import contextlib
import logging
import os
import statistics
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from run_table import RunTable

from lit_cv.cli import main as lit_cv
from lit_cv.metrics import propagated_predictions
from lit_cv.modules.loading import load_module

COLUMNS = ("set", "method", "labels", "draw", "seed", "accuracy", "steps", "seconds", "pretraining_seconds")
PROPAGATION = "label propagation"


@dataclass(frozen=True)
class Method:
    """A chain of runs: pretraining without labels if there is any, and a recipe that learns from the labels."""

    recipe: str | None
    options: tuple[str, ...] = ()
    pretrained: bool = False


@dataclass(frozen=True)
class Images:
    """A set of images, and the methods that are compared on it."""

    options: tuple[str, ...]
    methods: dict[str, Method]
    pretraining: str | None = None
    folder: str = ""
    pretraining_options: tuple[str, ...] = field(default_factory=tuple)


_WHOLE = ("--data.val_fraction", "0", "--data.num_workers", "0", "--trainer.limit_val_batches", "0")
SETS = {
    "mnist": Images(
        _WHOLE,
        {
            PROPAGATION: Method(None, pretrained=True),
            "semi-supervised from SimCLR": Method("mnist_semi_supervised", pretrained=True),
            "semi-supervised from scratch": Method(
                "mnist_semi_supervised", ("--model.propagation_epochs", "null", "--model.threshold", "free")
            ),
        },
        "mnist_simclr",
    ),
    "fashion_mnist": Images(
        (*_WHOLE, "--data", "FashionMNISTDataModule"),
        {
            PROPAGATION: Method(None, pretrained=True),
            "semi-supervised from SimCLR": Method("mnist_semi_supervised", pretrained=True),
            "semi-supervised from scratch": Method(
                "mnist_semi_supervised", ("--model.propagation_epochs", "null", "--model.threshold", "free")
            ),
        },
        "mnist_simclr",
    ),
    "photographs": Images(
        (
            "--data.num_workers", "0", "--data.cache", "true", "--data.unlabeled_root", "null", "--data.image_size",
            "96", "--data.train_image_size", "109", "--trainer.limit_val_batches", "0", "--trainer.precision",
            "32-true", "--trainer.max_epochs", "10",
        ),
        {
            "semi-supervised": Method("imagefolder_semi_supervised", ("--model.backbone", "efficientnet_lite0")),
            "semi-supervised, LoRA": Method(
                "imagefolder_semi_supervised",
                ("--model.backbone", "efficientnet_lite0", "--model.strategy", "lora", "--model.lr", "1e-3"),
            ),
        },
    ),
}  # fmt: skip


def fit(recipe: str, options: list[str], folder: Path) -> tuple[Any, float]:
    """Train by a recipe in a folder, and return the command line's parts and the seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with (folder / "log.txt").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        cli = lit_cv(
            ["fit", "--config", recipe, "--trainer.default_root_dir", str(folder), "--trainer.accelerator", "cpu",
             "--trainer.enable_progress_bar", "false", *options]
        )  # fmt: skip
    return cli, time.monotonic() - start


def newest(folder: Path) -> str | None:
    """Return the newest checkpoint of the runs in a folder, if one has ended."""
    if not (folder / "seconds.txt").is_file():
        return None
    return str(max(folder.rglob("last.ckpt"), key=os.path.getmtime))


def pretrain(args: argparse.Namespace, images: Images, seed: int) -> tuple[str, float]:
    """Return the checkpoint of the pretraining with a seed, and its seconds; it is run unless it has ended."""
    folder = Path(args.folder).resolve() / f"{args.set}-pretraining-{seed}"
    if newest(folder) is None:
        options = [
            *images.options,
            *images.pretraining_options,
            "--data.root",
            args.root,
            "--seed_everything",
            str(seed),
        ]
        _, seconds = fit(str(images.pretraining), options, folder)
        (folder / "seconds.txt").write_text(f"{seconds:.1f}")
    return str(newest(folder)), float((folder / "seconds.txt").read_text())


def run(args: argparse.Namespace, images: Images, method: Method, labels: int, draw: int, seed: int) -> list[Any]:
    """Run a method, and return its test accuracy, steps, seconds and those of its pretraining."""
    options = [
        *images.options, "--data.root", args.root, "--data.labels_per_class", str(labels), "--data.label_seed",
        str(draw), "--seed_everything", str(seed), *method.options,
    ]  # fmt: skip
    weights, pretraining = pretrain(args, images, seed) if method.pretrained else (None, 0.0)
    folder = Path(args.folder).resolve() / f"{args.set}-run"
    if method.recipe is None:
        return [*propagate(args, images, str(weights), options, folder), pretraining]
    options += ["--model.weights", weights] if weights else []
    cli, seconds = fit(method.recipe, options, folder)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        metrics = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
    return [metrics["test_acc"], cli.trainer.global_step, seconds, pretraining]


@torch.no_grad()
def propagate(args: argparse.Namespace, images: Images, weights: str, options: list[str], folder: Path) -> list[Any]:
    """Classify test images by neighbors among which labels were propagated, in the features of a checkpoint."""
    start = time.monotonic()
    cli, _ = fit(str(images.pretraining), [*options, "--trainer.max_steps", "1"], folder)
    module, data = load_module(Path(weights)).eval(), cli.datamodule

    def embed(dataset: Any) -> torch.Tensor:
        parts = torch.arange(len(dataset)).split(500)
        return torch.cat([module.embed(dataset.__getitems__(part.tolist())["image"]) for part in parts])

    labels, truth = data.unlabeled_dataset.labels, data.test_dataset.labels
    found = propagated_predictions(embed(data.test_dataset), embed(data.unlabeled_dataset), labels, data.num_classes)
    return [float((found == truth).float().mean()), 0, time.monotonic() - start]


def run_missing(args: argparse.Namespace, table: RunTable) -> None:
    """Do the missing runs, and write each result."""
    images = SETS[args.set]
    for seed in range(args.first_seed, args.seeds):
        for draw in [seed] if args.paired else range(args.draws):
            for labels in args.labels:
                for name in args.methods or images.methods:
                    if not table.lacks(args.set, name, labels, draw, seed):
                        continue
                    accuracy, steps, seconds, before = run(args, images, images.methods[name], labels, draw, seed)
                    values = (
                        args.set, name, labels, draw, seed, f"{accuracy:.5f}", steps, f"{seconds:.0f}", f"{before:.0f}"
                    )  # fmt: skip
                    table.add(dict(zip(COLUMNS, values, strict=True)))
                    print(*values, flush=True)


def show(rows: list[dict[str, str]]) -> None:
    """Print a table of each set: error or accuracy in percent, as mean and standard deviation over the runs."""
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = [row for row in rows if row["set"] == name]
        print(f"\n| {name} | labels of each class | runs | accuracy % | steps | minutes | of pretraining |")
        print("|---|---|---|---|---|---|---|")
        for method, labels in dict.fromkeys((row["method"], row["labels"]) for row in of_set):
            cell = [row for row in of_set if (row["method"], row["labels"]) == (method, labels)]
            values = [100 * float(row["accuracy"]) for row in cell]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            steps, seconds, before = (
                statistics.mean(float(row[key]) for row in cell) for key in ("steps", "seconds", "pretraining_seconds")
            )
            print(
                f"| {method} | {labels} | {len(cell)} | {statistics.mean(values):.2f}{spread} | {steps:.0f} | "
                f"{seconds / 60:.1f} | {before / 60:.1f} |"
            )


def main() -> None:
    """Do the missing runs, and show all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", choices=SETS, default="mnist")
    parser.add_argument("--root", default="data", help="folder of the images")
    parser.add_argument("--labels", type=int, nargs="*", default=[10], help="labels of each class")
    parser.add_argument("--methods", nargs="*", help="names of methods; all of the set by default")
    parser.add_argument("--draws", type=int, default=3, help="choices of labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--paired", action="store_true", help="choose labels once for each seed, by the same number")
    parser.add_argument("--folder", default="lightning_logs/compare_semi_supervised", help="folder of the runs")
    parser.add_argument("--csv", default="lightning_logs/compare_semi_supervised/runs.csv", help="table of all runs")
    parser.add_argument("--draw", action="store_true", help="show the finished runs, and run nothing")
    args = parser.parse_args()
    args.root = str(Path(args.root).resolve())
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    table = RunTable(args.csv, COLUMNS, COLUMNS[:5])
    if not args.draw:
        run_missing(args, table)
    show(table.rows())


if __name__ == "__main__":
    main()
