"""Compare SimCLR with random weights, supervised training, and lightly's SimCLR with the same number of steps.

It takes a folder `train/CLASS/*.jpg`, `test/CLASS/*.jpg` of small images. For each seed, on the test images:

- random: kNN accuracy (k = 20) of the backbone with random weights
- simclr: the same after SimCLR on the training images without labels
- lightly: the same after lightly's transform, DataLoader, projection head and loss in a plain Lightning module,
  with the same backbone, optimizer, schedule, precision and number of steps
- probe_ROW: logistic regression on the features of a row, fitted to 1 % of the labels
- supervised: the same backbone trained from scratch on the same labels, the best of two learning rates

    python scripts/compare_simclr.py --root $LIT_CV_DATA/cifar10_jpeg --epochs 30 --seeds 0 1 2 --csv compare.csv
"""

import argparse
import csv
import itertools
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules import ImageFolderDataModule
from lit_cv import Augmentation, ContrastiveAugmentation, SimCLRModule, SupervisedModule
from lit_cv.metrics import knn_predictions
from lit_cv.nn import create_backbone
from lit_cv.optim import build_optimizer, build_schedule, parameter_groups

BATCH, TEMPERATURE, LR, DECAY, STRENGTH = 128, 0.2, 2e-3, 1e-4, 0.5


class Lightly(L.LightningModule):
    """SimCLR as in lightly's documentation."""

    def __init__(self, backbone: str, size: int, epochs: int) -> None:
        super().__init__()
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        self.backbone = create_backbone(backbone, image_size=size).to(memory_format=torch.channels_last)
        width = self.backbone.num_features
        self.head = SimCLRProjectionHead(width, width, 128)
        self.loss = NTXentLoss(TEMPERATURE)
        self.epochs = epochs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Encode the two views, one after the other."""
        (x0, x1), _, _ = batch
        loss: Tensor = self.loss(self.head(self.backbone(x0)), self.head(self.backbone(x1)))
        return loss

    def configure_optimizers(self) -> Any:
        """Return the same optimizer and schedule as the compared module."""
        optimizer = build_optimizer("adamw", parameter_groups(self, LR, DECAY), LR, DECAY)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = build_schedule("cosine", optimizer, total, warmup_steps=total // self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer(args: argparse.Namespace, epochs: int, *callbacks: L.Callback) -> L.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        precision=args.precision,
        limit_val_batches=0,
        enable_model_summary=False,
        **quiet,
    )


def data(args: argparse.Namespace, seed: int, **kwargs: Any) -> ImageFolderDataModule:
    module = ImageFolderDataModule(
        root=args.root, image_size=args.size, batch_size=BATCH, val_fraction=0.0, split_seed=seed, **kwargs
    )
    module.setup()
    return module


@torch.no_grad()
def features(backbone: nn.Module, dataset: Any) -> tuple[Tensor, Tensor]:
    backbone.eval()
    batches = [dataset.__getitems__(range(i, min(i + 500, len(dataset)))) for i in range(0, len(dataset), 500)]
    return torch.cat([backbone(b["image"]) for b in batches]), torch.cat([b["label"] for b in batches])


def knn(backbone: nn.Module, source: ImageFolderDataModule) -> float:
    bank, bank_labels = features(backbone, source.unlabeled_dataset)
    queries, labels = features(backbone, source.test_dataset)
    (predictions,) = knn_predictions(queries, bank, bank_labels, int(source.num_classes or 0), k=[20])
    return float((predictions == labels).float().mean())


def probe(backbone: nn.Module, few: ImageFolderDataModule) -> float:
    x, y = features(backbone, few.train_dataset)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(x.numpy(), y.numpy())
    queries, labels = features(backbone, few.test_dataset)
    return float(classifier.score(queries.numpy(), labels.numpy()))


def supervised(args: argparse.Namespace, seed: int) -> float:
    best = 0.0
    for lr in (1e-3, 3e-3):
        L.seed_everything(seed, verbose=False)
        few = data(args, seed, label_fraction=0.01)
        module = SupervisedModule(backbone=args.backbone, lr=lr, schedule="cosine", label_smoothing=0.1)
        fit = trainer(args, args.supervised_steps // max(1, len(few.train_dataset) // BATCH), Augmentation())
        fit.fit(module, few)
        x, y = features(module.backbone, few.test_dataset)
        with torch.no_grad():
            best = max(best, float((module.head(x).argmax(1) == y).float().mean()))
    return best


def simclr(args: argparse.Namespace, seed: int) -> nn.Module:
    module = SimCLRModule(backbone=args.backbone, temperature=TEMPERATURE, lr=LR, weight_decay=DECAY, warmup_epochs=1.0)
    callback = ContrastiveAugmentation(args.size, strength=STRENGTH, min_scale=0.2)
    # Like lightly's, its crops are taken from images of the size in the files.
    trainer(args, args.epochs, callback).fit(module, data(args, seed, train_image_size=args.file_size))
    return module.backbone


def lightly(args: argparse.Namespace) -> nn.Module:
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(args.size, cj_strength=STRENGTH, min_scale=0.2, gaussian_blur=0.0, normalize=None)
    dataset = LightlyDataset(str(Path(args.root) / "train"), transform=transform)
    loader: Any = DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=args.workers, persistent_workers=args.workers > 0
    )
    module = Lightly(args.backbone, args.size, args.epochs)
    trainer(args, args.epochs).fit(module, loader)
    return module.backbone


def measure(args: argparse.Namespace, seed: int, row: str) -> dict[str, float]:
    """Return the results of one row of the comparison."""
    L.seed_everything(seed, verbose=False)
    if row == "supervised":
        return {row: supervised(args, seed)}
    start = time.perf_counter()
    if row == "random":
        backbone: nn.Module = create_backbone(args.backbone, image_size=args.size)
    else:
        backbone = simclr(args, seed) if row == "simclr" else lightly(args)
    seconds = time.perf_counter() - start
    full, few = data(args, seed), data(args, seed, label_fraction=0.01)
    return {row: knn(backbone, full), f"probe_{row}": probe(backbone, few), f"seconds_{row}": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--file-size", type=int, default=32, help="side of the images in the files")
    parser.add_argument("--backbone", default="resnet9_small")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--supervised-steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2, help="workers of lightly's loader")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=["random", "simclr", "supervised", "lightly"])
    parser.add_argument("--csv", help="table to append the results to; the summary covers all of its rows")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    results: list[tuple[str, float]] = []
    if args.csv and Path(args.csv).is_file():
        results = [(name, float(value)) for _, name, value in csv.reader(Path(args.csv).read_text().splitlines())]
    for seed, row in itertools.product(args.seeds, args.rows):
        for name, value in measure(args, seed, row).items():
            results.append((name, value))
            print(f"seed {seed}  {name:16}{value:8.4f}", flush=True)
            if args.csv:
                with open(args.csv, "a", newline="") as file:
                    csv.writer(file).writerow([seed, name, value])
    print(f"\n{'':18}{'mean':>8}{'min':>8}{'max':>8}{'runs':>6}")
    for name in dict.fromkeys(name for name, _ in results):
        values = [value for other, value in results if other == name]
        mean = statistics.fmean(values)
        print(f"{name:18}{mean:8.4f}{min(values):8.4f}{max(values):8.4f}{len(values):6}")


if __name__ == "__main__":
    main()
