"""Compare methods of domain adaptation on pairs of domains.

`steps` follows the usual protocol between USPS and MNIST: a LeNet, batches of 64 + 64, Adam, the same number of steps
for all methods, and the accuracy on the target's test images after the last step. `--augment` applies random affine
maps to the images of both domains, for every method:

    python scripts/compare_adaptation.py steps --root $LIT_CV_DATA --csv adaptation.csv

`recipe` runs `lit-cv fit --config self_training` on every pair with the same settings, beside the same network trained
with the same augmentation on the labels of the source alone, and on those of the target, which adaptation cannot be
expected to exceed. Checkpoints are chosen without target labels, by reverse validation; `cost` is what this choice
loses on validation images of the target, and `source` the accuracy on test images of the source. Folders of two of the
pairs are made by `make_digits_over_photographs.py` and `make_corrupted_photographs.py`; pairs without their folders are
left out:

    python scripts/compare_adaptation.py recipe --root $LIT_CV_DATA --digits_over data/digits_over --csv pairs.csv

Results are written after each run; a restarted script does the missing runs.
"""

import argparse
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
from run_table import RunTable

from datamodules import BaseDataModule, DomainAdaptationDataModule, MNISTDataModule, USPSDataModule
from lit_cv import Augmentation, DomainAdversarialModule, MMDModule
from lit_cv.callbacks.run_output import run_folder
from lit_cv.cli import main as lit_cv
from lit_cv.metrics_table import read_metrics
from lit_cv.modules import DomainAdaptationModule

SETS: dict[str, Callable[..., BaseDataModule]] = {"usps": USPSDataModule, "mnist": MNISTDataModule}
DIRECTIONS = ("usps_to_mnist", "mnist_to_usps")
OPTIONS: dict[str, Any] = {"backbone": "lenet", "optimizer": "adam", "lr": 2e-3, "weight_decay": 0.0}
AFFINE = {"name": "affine", "degrees": 15, "translate": 0.1, "scale": [0.7, 1.1], "shear": 15}
STEPS: dict[str, Callable[..., DomainAdaptationModule]] = {
    "source only": lambda **o: DomainAdversarialModule(source_only=True, **o),
    "DANN": lambda **o: DomainAdversarialModule(**{"adaptation_weight": 0.3} | o),
    "CDAN": lambda **o: DomainAdversarialModule(conditioning="multilinear", **o),
    "CDAN+E": lambda **o: DomainAdversarialModule(conditioning="entropy", **o),
    "MMD": lambda **o: MMDModule(**o),
    "joint MMD": lambda **o: MMDModule(distance="joint_mmd", **o),
    "CORAL": lambda **o: MMDModule(distance="coral", **o),
}
RECIPE = ("source alone", "self-training", "target labels")


def domain(name: str, args: argparse.Namespace) -> list[str] | None:
    """Return the data set of a domain and its options, `None` if its folder is not given."""
    if name in SETS:
        return [SETS[name].__name__, f"root={args.root}"]
    if name in ("filled", "outlined", "textured"):
        seed = [] if name == "filled" else ["seed=1"]
        return ["ShapesDataModule", "image_size=32", "num_images=4000", f"domain={name}", *seed]
    folder = args.digits_over if name == "photographs" else args.corrupted and f"{args.corrupted}/{name}"
    size = 28 if name == "photographs" else 64
    return ["ImageFolderDataModule", f"root={folder}", f"image_size={size}", "cache=true"] if folder else None


PAIRS = {
    "usps_to_mnist": ("usps", "mnist"),
    "mnist_to_usps": ("mnist", "usps"),
    "filled_to_outlined": ("filled", "outlined"),
    "filled_to_textured": ("filled", "textured"),
    "mnist_to_photographs": ("mnist", "photographs"),
    "clean_to_corrupted": ("source", "target"),
}


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


def run_steps(args: argparse.Namespace, direction: str, method: str, seed: int) -> dict[str, float]:
    """Train one method for a number of steps."""
    L.seed_everything(seed, verbose=False)
    source, target = (SETS[name](args.root, download=False) for name in direction.split("_to_"))
    data, module = DomainAdaptationDataModule(source, target), STEPS[method](**OPTIONS | options(args.options))
    trainer = L.Trainer(
        max_steps=args.steps, max_epochs=1000, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", precision=args.precision,
        callbacks=[Augmentation(operations=[AFFINE])] if args.augment else [],
    )  # fmt: skip
    start = time.process_time()
    trainer.fit(module, data)
    return {"test": accuracy(module, data.test_dataset), "CPU seconds": time.process_time() - start}


def run_recipe(args: argparse.Namespace, pair: str, method: str, seed: int) -> dict[str, float]:
    """Run the recipe on a pair, and test its networks on the target."""
    names = PAIRS[pair] if method != "target labels" else (PAIRS[pair][1],) * 2
    data: list[str] = []
    for role, name in zip(("source", "target"), names, strict=True):
        cls, *given = domain(name, args) or []
        data += [f"--data.{role}={cls}", *(f"--data.{role}.{option}" for option in given)]
    alone = [] if method == "self-training" else ["--model.source_only=true", "--model.target_statistics=false"]
    if pair == "clean_to_corrupted":  # photographs need a larger network, which needs pretrained weights
        data += ["--model.backbone=efficientnet_lite0", "--model.weights=DEFAULT"]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cli = lit_cv([
            "fit", "--config", "self_training", *data, *alone, f"--seed_everything={seed}",
            "--trainer.accelerator=cpu", f"--trainer.default_root_dir={folder}",
            "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false",
        ])  # fmt: skip
        minutes, test = (time.monotonic() - start) / 60, cli.datamodule.test_dataset
        newest, source = accuracy(cli.model, test), accuracy(cli.model, cli.datamodule.source_test_dataset)
        if alone:
            return {"kept": newest, "newest": newest, "cost": 0.0, "source": source, "minutes": minutes}
        path = Path(run_folder(cli.trainer) or folder) / "metrics.csv"
        rows = [row for row in read_metrics(path) if "val_reverse_score" in row]
        chosen = max(rows, key=lambda row: (row["val_reverse_score"], row["step"]))
        best = type(cli.model).load_from_checkpoint(cli.trainer.checkpoint_callback.best_model_path, weights_only=True)
        cost = 100 * (max(row["val_target_acc"] for row in rows) - chosen["val_target_acc"])
        return {"kept": accuracy(best, test), "newest": newest, "cost": cost, "source": source, "minutes": minutes}


def options(entries: list[str]) -> dict[str, Any]:
    import yaml

    return {name: yaml.safe_load(value) for name, _, value in (entry.partition("=") for entry in entries)}


def main() -> None:
    """Do the missing runs, and show all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "recipe"])
    parser.add_argument("--root", required=True, help="folder of MNIST and USPS")
    parser.add_argument("--digits_over", help="folder of digits over photographs")
    parser.add_argument("--corrupted", help="folder of clean and corrupted photographs")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=[*STEPS, *RECIPE])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--augment", action="store_true", help="augment images in `steps`")
    parser.add_argument("--precision", default="bf16-mixed", help="precision of `steps`")
    parser.add_argument("--options", nargs="*", default=[], help="further arguments of the modules, NAME=VALUE")
    parser.add_argument("--csv", help="table of all runs; default: lightning_logs/compare_adaptation/WHAT.csv")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    run, methods, pairs, values = (
        (run_steps, STEPS, DIRECTIONS, ("test", "CPU seconds"))
        if args.what == "steps"
        else (run_recipe, RECIPE, PAIRS, ("kept", "newest", "cost", "source", "minutes"))
    )
    keys = ("pair", "method", "seed")
    table = RunTable(args.csv or f"lightning_logs/compare_adaptation/{args.what}.csv", (*keys, *values), keys)
    for seed in args.seeds:
        for pair in args.pairs or pairs:
            if args.what == "recipe" and None in (domain(name, args) for name in PAIRS[pair]):
                continue
            for method in args.methods or methods:
                if table.lacks(pair, method, seed):
                    numbers = {name: f"{value:.3f}" for name, value in run(args, pair, method, seed).items()}
                    table.add({"pair": pair, "method": method, "seed": seed} | numbers)
                    print(f"{pair}, {method}, seed {seed}: {numbers}", flush=True)
    print(f"| pair | method | runs | {' | '.join(values)} |\n|---|---|---|{'---|' * len(values)}")
    rows = table.rows()
    for key in dict.fromkeys((row["pair"], row["method"]) for row in rows):
        runs = [row for row in rows if (row["pair"], row["method"]) == key]
        cells = [[float(row[name]) for row in runs] for name in values]
        shown = [f"{statistics.fmean(c):.1f} ± {statistics.stdev(c) if len(c) > 1 else 0:.1f}" for c in cells]
        print(f"| {key[0]} | {key[1]} | {len(runs)} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
