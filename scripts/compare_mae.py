"""Compare a vision transformer fine-tuned from masked pretraining with one trained from scratch on few labels.

    python scripts/compare_mae.py --root DATA --out runs pretrain --epochs 12
    python scripts/compare_mae.py --root DATA --out runs compare --seeds 0 1 2

On Fashion-MNIST, `pretrain` trains on all training images without labels and writes `mae.ckpt`. `compare` trains on a
tenth of the labels, drawn by the seed, from those weights and from scratch, with the same network, data, augmentation,
number of steps and schedule, for each of the given learning rates. The accuracy is measured on the 10,000 test images
after the last epoch.
"""

import argparse
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch

from datamodules import FashionMNISTDataModule
from lit_cv import MAEModule, SupervisedModule
from lit_cv.callbacks import Augmentation

BACKBONE = "vit_micro_p7"  # 16 patches per image
AUGMENTATION = [{"name": "random_crop", "padding": 2}, "horizontal_flip"]


class Clock(L.Callback):
    """Prints metrics after validation, and the remaining time."""

    def __init__(self, what: str, runs_left: int, path: Path | None) -> None:
        self.what, self.runs_left, self.path, self.start = what, runs_left, path, time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Print a line."""
        if trainer.sanity_checking:
            return
        done = trainer.current_epoch + 1
        epoch_seconds = (time.perf_counter() - self.start) / done
        left = epoch_seconds * (trainer.max_epochs - done + trainer.max_epochs * self.runs_left)
        names = ("val_loss", "val_psnr", "val_acc")
        shown = "  ".join(f"{n} {float(v):.4f}" for n, v in trainer.callback_metrics.items() if n in names)
        print(f"{self.what}: epoch {done} of {trainer.max_epochs}  {shown}  {left:.0f} s left", flush=True)
        if self.path is not None:
            trainer.save_checkpoint(self.path)


def fit(
    module: L.LightningModule,
    data: L.LightningDataModule,
    what: str,
    runs_left: int,
    epochs: int,
    path: Path | None = None,
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        callbacks=[Clock(what, runs_left, path), Augmentation(operations=AUGMENTATION)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=max(1, epochs // 5),
        limit_val_batches=10,
    )
    trainer.fit(module, data)
    return trainer


def pretrain(args: argparse.Namespace) -> None:
    """Pretrain on all images and save the weights."""
    L.seed_everything(0, verbose=False)
    module = MAEModule(
        backbone=BACKBONE,
        decoder_width=128,
        decoder_depth=2,
        decoder_heads=4,
        mask_ratio=args.mask_ratio,
        lr=args.pretraining_lr,
        warmup_epochs=1,
    )
    data = FashionMNISTDataModule(root=args.root, batch_size=256, val_fraction=0.05)
    path = args.out / "mae.ckpt"
    fit(module, data, "pretraining", 0, args.epochs, path).save_checkpoint(path)


def accuracy(args: argparse.Namespace, weights: Path | None, lr: float, seed: int, what: str, runs_left: int) -> float:
    """Train a classifier and return its test accuracy in percent."""
    L.seed_everything(seed, verbose=False)
    data = FashionMNISTDataModule(root=args.root, batch_size=64, val_fraction=0.05, label_fraction=0.1, split_seed=seed)
    module = SupervisedModule(
        backbone=BACKBONE,
        weights=None if weights is None else str(weights),
        lr=lr,
        weight_decay=0.05,
        warmup_epochs=2,
        label_smoothing=0.1,
        drop_path=0.1,
    )
    trainer = fit(module, data, what, runs_left, args.epochs)
    return 100 * trainer.test(module, data, verbose=False)[0]["test_acc"]


def compare(args: argparse.Namespace) -> None:
    """Train with and without the pretrained weights and print the accuracies."""
    starts: dict[str, Path | None] = {"scratch": None, "MAE": args.out / "mae.ckpt"}
    runs = [(name, lr, seed) for seed in args.seeds for lr in args.lr for name in args.starts]
    results: dict[tuple[str, float], list[float]] = {}
    for index, (name, lr, seed) in enumerate(runs):
        what = f"run {index + 1} of {len(runs)}, {name}, lr {lr:g}, seed {seed}"
        value = accuracy(args, starts[name], lr, seed, what, len(runs) - index - 1)
        results.setdefault((name, lr), []).append(value)
        print(f"{what}: {value:.2f} % of the test images", flush=True)
    for (name, lr), values in results.items():
        spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"{name:<8} lr {lr:g}: {statistics.mean(values):.2f}{spread} % ({len(values)} seeds)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of FashionMNIST")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--threads", type=int, default=2)
    stages: Any = parser.add_subparsers(dest="stage", required=True)
    first = stages.add_parser("pretrain")
    first.add_argument("--epochs", type=int, default=12)
    first.add_argument("--mask_ratio", type=float, default=0.75)
    first.add_argument("--pretraining_lr", type=float, default=1.5e-3)
    second = stages.add_parser("compare")
    second.add_argument("--epochs", type=int, default=12)
    second.add_argument("--lr", type=float, nargs="+", default=[1e-3])
    second.add_argument("--starts", nargs="+", choices=["scratch", "MAE"], default=["scratch", "MAE"])
    second.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    (pretrain if args.stage == "pretrain" else compare)(args)


if __name__ == "__main__":
    main()
