"""Compare strategies of fine-tuning a pretrained backbone in detection and segmentation.

EfficientNet-Lite0 (`pip install "lit_cv[pretrained]"`) is trained to detect blood cells (BCCD) on 25, 50 and all
images, and to segment shapes that are pasted onto photographs (a folder of photographs with `train` and `test`). A
shape is cut out of another photograph, so that color does not reveal it. All runs take the same number of steps and are
evaluated once, at their end, on test images. Results are written after each run; a restarted script does the missing
runs.

    python scripts/compare_dense_transfer.py detection --root data/BCCD
    python scripts/compare_dense_transfer.py detection --root data/BCCD --images 25 --methods scratch lora --seeds 0
    python scripts/compare_dense_transfer.py segmentation --root data/clothing
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from PIL import Image
from run_table import RunTable
from torch import Tensor

from datamodules import AnnotatedImagesDataModule
from datamodules.shape_drawing import DISTANCES
from lit_cv import EMA, Augmentation, DetectionModule, SegmentationModule

BACKBONE = "efficientnet_lite0"
COLUMNS = ("task", "method", "images", "seed", "score", "seconds")
METHODS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "one rate": {"weights": "DEFAULT"},
    "feature_extraction": {"weights": "DEFAULT", "strategy": "feature_extraction"},
    "freeze_backbone": {"weights": "DEFAULT", "strategy": "freeze_backbone", "backbone_lr": 3e-4},
    "full_finetune": {"weights": "DEFAULT", "strategy": "full_finetune", "backbone_lr": 3e-4},
    "layer decay": {"weights": "DEFAULT", "strategy": "full_finetune", "backbone_lr": 1e-3, "layer_decay": 0.75},
    "lora": {"weights": "DEFAULT", "strategy": "lora", "backbone_lr": 1e-3},
}
CELLS = [
    "horizontal_flip",
    "vertical_flip",
    {"name": "affine", "scale": [0.75, 1.33], "translate": 0.1},
    {"name": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02, "p": 0.8},
]
SIDE = 128  # pixels of the photographs with shapes
SHAPES = tuple(DISTANCES)
TEST_SEED = 1000


def shortened(root: Path, count: int, seed: int, folder: Path) -> Path:
    """Return a folder with the same files, whose training list has `count` images drawn by a seed."""
    lists = root / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    for name in ("JPEGImages", "Annotations"):
        (folder / name).symlink_to((root / name).resolve())
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = (lists / f"{split}.txt").read_text().split()
        if split == "train" and count:
            order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
            names = [names[i] for i in order[:count].tolist()]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return folder


def photographs(folder: Path, count: int, seed: int) -> Tensor:
    """Return photographs from a folder of classes, drawn by a seed, (count, 3, SIDE, SIDE) in [0, 1]."""
    paths = sorted(folder.glob("*/*.jpg"))
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:count]
    images = [
        Image.open(paths[i]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR) for i in order.tolist()
    ]
    return (
        torch.stack([torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8) for each in images])
        .view(-1, SIDE, SIDE, 3)
        .permute(0, 3, 1, 2)
        / 255
    )


def paste_shapes(grounds: Tensor, cuts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Paste one to three shapes, cut out of other photographs, onto each photograph.

    Args:
        grounds: Photographs (N, 3, SIDE, SIDE) in [0, 1].
        cuts: Photographs (N, 3, SIDE, SIDE) to cut from.
        seed: Seed of kinds, positions and sizes.

    Returns:
        The images, and masks (N, SIDE, SIDE) uint8: 0 for the photograph, 1 and up for the kind of the shape.
    """
    generator = torch.Generator().manual_seed(seed)
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    images, masks = grounds.clone(), torch.zeros(len(grounds), SIDE, SIDE, dtype=torch.uint8)
    for row in range(len(images)):
        for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
            kind = int(torch.randint(len(SHAPES), (1,), generator=generator))
            x, y, size, angle = torch.rand(4, generator=generator).tolist()
            radius = 0.1 + 0.15 * size
            dx, dy = (
                (axis - (radius + x * (1 - 2 * radius)))[None, :],
                (axis - (radius + y * (1 - 2 * radius)))[:, None],
            )
            turn = torch.tensor(6.2832 * angle)
            u, v = (dx * turn.cos() + dy * turn.sin()) / radius, (dy * turn.cos() - dx * turn.sin()) / radius
            inside = DISTANCES[SHAPES[kind]](u, v) < 0
            images[row] = torch.where(inside, cuts[row].roll(kind * SIDE // 8, 2), images[row])
            masks[row][inside] = kind + 1
    return images, masks


def draw_shapes(root: Path, counts: dict[str, int], seed: int, folder: Path) -> Path:
    """Write a folder of photographs with shapes, and their masks."""
    for split, count in counts.items():
        split_seed = TEST_SEED if split == "test" else seed
        both = photographs(root / ("test" if split == "test" else "train"), 2 * count, split_seed)
        images, masks = paste_shapes(F.interpolate(both[:count], SIDE), both[count : 2 * count], split_seed)
        for kind, values in (("images", images.mul(255).round().byte().permute(0, 2, 3, 1)), ("masks", masks)):
            (folder / kind / split).mkdir(parents=True)
            for number, value in enumerate(values):
                Image.fromarray(value.numpy()).save(folder / kind / split / f"{number:04}.png")
    (folder / "classes.txt").write_text("\n".join(("photograph", *SHAPES)) + "\n")
    return folder


def run(task: str, method: str, images: int, seed: int, args: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Train one run, and return its test score and the seconds of training."""
    options = METHODS[method] | {"backbone": BACKBONE, "stem": "standard", "optimizer": "adamw", "lr": 1e-3}
    callbacks: list[L.Callback] = [EMA(0.997)]
    if task == "detection":
        root, size, batch = shortened(Path(args.root), images, seed, folder), list(args.size), 4
        data = AnnotatedImagesDataModule(str(root), "voc", image_size=size, batch_size=batch, cache=True)
        module: L.LightningModule = DetectionModule(strides=[8, 16], channels=64, iou_threshold=0.5, **options)
        callbacks.append(Augmentation(operations=CELLS))
    else:
        batch = 16
        counts = {"train": images or 600, "val": 32, "test": 150}
        root = draw_shapes(Path(args.root), counts, seed, folder)
        data = AnnotatedImagesDataModule(str(root), "masks", image_size=SIDE, batch_size=batch, cache=True)
        module = SegmentationModule(channels=64, stride=4, **options)
        callbacks.append(Augmentation(operations=["horizontal_flip"]))
    L.seed_everything(seed, verbose=False)
    start = time.monotonic()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, limit_val_batches=0, num_sanity_val_steps=0,
        max_steps=args.steps, max_epochs=-1, gradient_clip_val=5.0, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, data)
    seconds = time.monotonic() - start
    metrics = trainer.test(module, data, verbose=False)[0]
    return float(metrics["test_map50" if task == "detection" else "test_miou"]), seconds


def table(task: str, rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table of means and standard deviations in percent."""
    rows = [row for row in rows if row["task"] == task]
    counts = sorted({int(row["images"]) for row in rows}, key=lambda count: count or 1 << 30)
    yield f"| | {' | '.join(f'{count} images' if count else 'all' for count in counts)} | seconds |"
    yield f"|---|{'---|' * (len(counts) + 1)}"
    for method in METHODS:
        cells, seconds = [], []
        for count in counts:
            cell = [row for row in rows if (row["method"], int(row["images"])) == (method, count)]
            scores = [100 * float(row["score"]) for row in cell]
            spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            cells.append(f"{statistics.mean(scores):.1f}{spread}" if scores else "")
            seconds += [float(row["seconds"]) for row in cell]
        if seconds:
            yield f"| {method} | {' | '.join(cells)} | {statistics.median(seconds):.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("detection", "segmentation"))
    parser.add_argument("--root", required=True, help="BCCD, or a folder of photographs with train and test")
    parser.add_argument(
        "--images", type=int, nargs="+", default=[25, 50, 0], help="numbers of training images; 0 uses all"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), help="height and width, for detection")
    parser.add_argument("--csv", type=Path, default=Path("lightning_logs/dense_transfer.csv"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    runs = RunTable(args.csv, COLUMNS, COLUMNS[:4])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for seed in args.seeds:
        for images in args.images:
            for method in args.methods:
                if not runs.lacks(args.task, method, images, seed):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    score, seconds = run(args.task, method, images, seed, args, Path(folder) / "data")
                values = (args.task, method, images, seed, f"{score:.4f}", f"{seconds:.1f}")
                runs.add(dict(zip(COLUMNS, values, strict=True)))
                print(
                    f"{args.task}, {images or 'all'} images, seed {seed}: {method} {score:.1%} ({seconds:.0f} s)",
                    flush=True,
                )
    print("\n".join(table(args.task, runs.rows())))


if __name__ == "__main__":
    main()
