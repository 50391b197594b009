"""Compare methods of domain adaptation between USPS and MNIST with a LeNet, and run a chain of two methods.

`steps` follows the usual protocol: batches of 64 + 64, Adam, the same number of steps for all methods, and the accuracy
on the target's test images after the last step. `--augment` applies random affine maps to the images of both domains,
for every method:

    python scripts/compare_adaptation.py steps --root $LIT_CV_DATA --csv adaptation.csv

`chain` runs the recipes `usps_to_mnist_adversarial` and `usps_to_mnist_self_training` (or those of the other direction)
by the command line, the second from the best checkpoint of the first. Epochs are selected without target labels, by
reverse validation; the target's validation accuracy of the selected epoch is reported with that of the best one:

    python scripts/compare_adaptation.py chain --root $LIT_CV_DATA --csv chain.csv
"""

import argparse
import csv
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from datamodules import BaseDataModule, DomainAdaptationDataModule, MNISTDataModule, USPSDataModule
from lit_cv import Augmentation, DomainAdversarialModule, MMDModule
from lit_cv.cli import main as lit_cv
from lit_cv.metrics_table import read_metrics
from lit_cv.modules import DomainAdaptationModule

SETS: dict[str, Callable[..., BaseDataModule]] = {"usps": USPSDataModule, "mnist": MNISTDataModule}
DIRECTIONS = ("usps_to_mnist", "mnist_to_usps")
OPTIONS: dict[str, Any] = {"backbone": "lenet", "optimizer": "adam", "lr": 2e-3, "weight_decay": 0.0}
AFFINE = {"name": "affine", "degrees": 15, "translate": 0.1, "scale": [0.7, 1.1], "shear": 15}  # of the recipes
METHODS: dict[str, Callable[..., DomainAdaptationModule]] = {
    "source only": lambda **o: DomainAdversarialModule(source_only=True, **o),
    "DANN": lambda **o: DomainAdversarialModule(**{"adaptation_weight": 0.3} | o),
    "CDAN": lambda **o: DomainAdversarialModule(conditioning="multilinear", **o),
    "CDAN+E": lambda **o: DomainAdversarialModule(conditioning="entropy", **o),
    "MMD": lambda **o: MMDModule(**o),
    "joint MMD": lambda **o: MMDModule(distance="joint_mmd", **o),
    "CORAL": lambda **o: MMDModule(distance="coral", **o),
}


def data(root: str, direction: str) -> DomainAdaptationDataModule:
    source, target = direction.split("_to_")
    return DomainAdaptationDataModule(SETS[source](root, download=False), SETS[target](root, download=False))


@torch.no_grad()
def accuracy(module: DomainAdaptationModule, dataset: Any) -> float:
    """Return the accuracy in percent over a set of images."""
    was_training = module.training
    module.eval()
    right = 0
    for start in range(0, len(dataset), 500):
        batch = dataset.__getitems__(range(start, min(start + 500, len(dataset))))
        right += int((module(batch["image"]).argmax(1) == batch["label"]).sum())
    module.train(was_training)
    return 100 * right / len(dataset)


def compare_steps(args: argparse.Namespace, direction: str, seed: int, method: str) -> dict[str, float]:
    """Train one method for a number of steps."""
    L.seed_everything(seed, verbose=False)
    source, module = data(args.root, direction), METHODS[method](**{**OPTIONS, **options(args.options)})
    trainer = L.Trainer(
        max_steps=args.steps, max_epochs=1000, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", precision=args.precision,
        callbacks=[Augmentation(operations=[AFFINE])] if args.augment else [],
    )  # fmt: skip
    start = time.process_time()
    trainer.fit(module, source)
    return {method: accuracy(module, source.test_dataset), f"{method}: CPU seconds": time.process_time() - start}


def run_chain(args: argparse.Namespace, direction: str, seed: int) -> dict[str, float]:
    """Run the two recipes of a direction, and test the selected checkpoint of each."""
    results: dict[str, float] = {}
    weights: list[str] = []
    for stage in ("adversarial", "self_training"):
        root = Path(args.keep or tempfile.mkdtemp()) / f"{direction}_{stage}_{seed}"
        roots = ["--data.source.root", args.root, "--data.target.root", args.root, "--trainer.accelerator", "cpu"]
        cpu, start = time.process_time(), time.time()
        cli = lit_cv([
            "fit", "--config", f"{direction}_{stage}", "--seed_everything", str(seed), *roots,
            "--trainer.default_root_dir", str(root), "--trainer.enable_model_summary", "false", *weights,
        ])  # fmt: skip
        cpu, seconds = time.process_time() - cpu, time.time() - start
        rows = [
            row for row in read_metrics(root / "lightning_logs/version_0/metrics.csv") if "val_reverse_score" in row
        ]
        chosen = max(rows, key=lambda row: (row["val_reverse_score"], row["step"]))
        results |= {
            f"{stage}: epochs": float(len(rows)),
            f"{stage}: val, chosen by score": 100 * chosen["val_target_acc"],
            f"{stage}: val, best epoch": 100 * max(row["val_target_acc"] for row in rows),
            f"{stage}: val, last epoch": 100 * rows[-1]["val_target_acc"],
            f"{stage}: seconds": seconds,
            f"{stage}: CPU seconds": cpu,
        }
        best = cli.trainer.checkpoint_callback.best_model_path
        module = type(cli.model).load_from_checkpoint(best, weights_only=True)
        results[f"{stage}: test, chosen by score"] = accuracy(module, cli.datamodule.test_dataset)
        results[f"{stage}: test, last epoch"] = accuracy(cli.model, cli.datamodule.test_dataset)
        weights = ["--model.weights", best]
    return results


def options(entries: list[str]) -> dict[str, Any]:
    import yaml

    return {name: yaml.safe_load(value) for name, _, value in (entry.partition("=") for entry in entries)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "chain"])
    parser.add_argument("--root", required=True, help="folder of MNIST and USPS")
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--augment", action="store_true", help="augment images in `steps`")
    parser.add_argument("--precision", default="bf16-mixed", help="precision of `steps`")
    parser.add_argument("--options", nargs="*", default=[], help="further arguments of the modules, NAME=VALUE")
    parser.add_argument("--keep", help="folder for the runs of `chain`")
    parser.add_argument("--csv", help="table to append the results to; the summary covers all of its rows")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    results: list[tuple[str, str, float]] = []
    if args.csv and Path(args.csv).is_file():
        results = [(d, n, float(v)) for d, _, n, v in csv.reader(Path(args.csv).read_text().splitlines())]
    for direction in args.directions:
        for seed in args.seeds:
            for method in args.methods if args.what == "steps" else [""]:
                numbers = compare_steps(args, direction, seed, method) if method else run_chain(args, direction, seed)
                for name, value in numbers.items():
                    results.append((direction, name, value))
                    print(f"{direction}  seed {seed}  {name:36}{value:8.2f}", flush=True)
                    if args.csv:
                        with open(args.csv, "a", newline="") as file:
                            csv.writer(file).writerow([direction, seed, name, value])
    print(f"\n{'':52}{'mean':>8}{'min':>8}{'max':>8}{'runs':>6}")
    for key in dict.fromkeys((direction, name) for direction, name, _ in results):
        values = [value for direction, name, value in results if (direction, name) == key]
        mean = statistics.fmean(values)
        print(f"{key[0]:15}{key[1]:37}{mean:8.2f}{min(values):8.2f}{max(values):8.2f}{len(values):6}")


if __name__ == "__main__":
    main()
