"""Compare task weightings on a synthetic check, on losses of different scales, and on Multi-MNIST.

    python scripts/compare_multi_task.py synthetic
    python scripts/compare_multi_task.py multi_mnist --root DATA --csv multi_mnist.csv --seeds 0 1 2
    python scripts/compare_multi_task.py table --csv multi_mnist.csv
    python scripts/compare_multi_task.py steps --backbones resnet9_small resnet9

`synthetic`: two regressions of one input, y1 = 2x + 8 + 10 n and y2 = 3x + 3 + n, 100 points, one hidden layer of
1,024 units: the sigmas of uncertainty weighting are estimates of the noise, 10 and 1.

`multi_mnist`: two MNIST digits overlaid on 36x36 pixels, one at the upper left and one at the lower right, by the
maximum of both (Sener and Koltun 2018): 60,000 training images, 10,000 test images of the test digits. A network like
LeNet classifies the left and the right digit; 5 epochs, batch size 256, Adam, learning rate 1e-3, bfloat16. `plain` has
these two tasks; `rebuilt` adds a third one of another scale, reconstruction of the image, with the squared error summed
over its pixels; `scaled` has the left digit and the image, whose loss is multiplied by 1,000. Rows are appended to the
table after each run; rows in it are not run again.

`steps`: a step of the three tasks of the recipe `multi_task` (64-pixel images, batch size 32), compared with the sum of
the steps of one network per task, measured in turn: CPU seconds, and the median of the ratios.
"""

import argparse
import csv
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torchvision.datasets import MNIST

from datamodules import BaseDataModule, InMemoryDataset, ShapesDataModule
from datamodules.base import Split
from datamodules.dataset import Rows
from lit_cv import MultiTaskModule
from lit_cv.contracts import Batch
from lit_cv.losses import UncertaintyWeighting
from lit_cv.nn import compact
from lit_cv.optim import build_optimizer, parameter_groups
from lit_cv.tasks import ClassificationTask, Task

SIDE, DIGIT, SCALE = 36, 28, 1000.0
COLUMNS = ("setting", "weighting", "tasks", "seed", "left", "right", "rebuilt", "seconds", "sigmas")
DIGITS = ("left", "right")
WEIGHTINGS = ("equal", "uncertainty", "dwa", "pcgrad")


class LeNet(nn.Module):
    """Two 5x5 convolutions and a fully connected layer (LeCun et al. 1998), with max-pooling, batch norm and ReLU."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.num_features = 8 * width
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 5, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 5, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(2 * width * 6 * 6, self.num_features),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (self.num_features, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


compact.COMPACT["lenet"] = (LeNet, 16)


class DigitTask(ClassificationTask):
    """Classifies a digit with a head of two layers."""

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Sequential(nn.Linear(num_features, 64), nn.ReLU(inplace=True), nn.Linear(64, 10))


class RebuildTask(Task):
    """Reconstructs the image, with the squared error summed over its pixels times a constant as its loss."""

    default_key: ClassVar[str | None] = "image"

    def __init__(self, name: str, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.scale = scale

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Linear(num_features, SIDE**2)

    def known(self, target: Tensor) -> Tensor:
        return torch.ones(len(target), dtype=torch.bool, device=target.device)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return self.scale * (output.float() - target.flatten(1) / 255).square().sum(1)


class PairsDataset(InMemoryDataset):
    """Overlaid digits, with the labels of both."""

    pairs: Tensor

    def read(self, rows: Rows) -> Batch:
        pairs = self.pairs[torch.from_numpy(rows)]
        return {**super().read(rows), "left": pairs[:, 0], "right": pairs[:, 1]}


class MultiMNISTDataModule(BaseDataModule):
    """Two MNIST digits in one image."""

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(val_fraction=0.0, **kwargs)

    def load(self, split: Split) -> PairsDataset | None:
        if split not in ("train", "test"):
            return None
        source = MNIST(self.hparams["root"], train=split == "train", download=False)
        digits, labels = source.data, source.targets
        other = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
        images = torch.zeros(len(digits), 1, SIDE, SIDE, dtype=torch.uint8)
        images[:, 0, :DIGIT, :DIGIT] = digits
        lower = images[:, 0, -DIGIT:, -DIGIT:]
        torch.maximum(lower, digits[other], out=lower)
        dataset = PairsDataset(images, labels, source.classes)
        dataset.pairs = torch.stack([labels, labels[other]], 1)
        return dataset


def trainer(**options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tempfile.gettempdir(), num_sanity_val_steps=0, **options,
    )  # fmt: skip


def tasks_of(setting: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    here = __name__ if __name__ != "__main__" else Path(__file__).stem
    tasks: dict[str, dict[str, Any]] = {name: {"type": f"{here}.DigitTask", "num_classes": 10} for name in DIGITS}
    tasks["rebuilt"] = {"type": f"{here}.RebuildTask"}
    if setting == "scaled":
        tasks["rebuilt"]["scale"] = SCALE
    return {name: tasks[name] for name in names}


def rows(settings: list[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield setting, weighting and tasks of every run."""
    if "plain" in settings:
        yield from (("plain", weighting, DIGITS) for weighting in WEIGHTINGS)
        yield from (("plain", "single", (name,)) for name in DIGITS)
    if "rebuilt" in settings:
        yield from (("rebuilt", weighting, (*DIGITS, "rebuilt")) for weighting in WEIGHTINGS)
        yield "rebuilt", "single", ("rebuilt",)
    if "scaled" in settings:
        yield from (("scaled", weighting, ("left", "rebuilt")) for weighting in ("equal", "uncertainty"))
        yield from (("scaled", "single", (name,)) for name in ("left", "rebuilt"))


def run(
    data: MultiMNISTDataModule, setting: str, weighting: str, names: tuple[str, ...], seed: int, epochs: int
) -> dict[str, Any]:
    """Do one run, and return its row of test metrics."""
    L.seed_everything(seed, verbose=False)
    start = time.process_time()
    module = MultiTaskModule(
        tasks_of(setting, names),
        weighting="equal" if weighting == "single" else weighting,
        backbone="lenet",
        optimizer="adam",
        lr=1e-3,
        weight_decay=0.0,
        schedule="constant",
    )
    fitting = trainer(max_epochs=epochs)
    fitting.fit(module, data)
    seconds = time.process_time() - start
    found = fitting.test(module, data, verbose=False)[0]
    row: dict[str, Any] = {"setting": setting, "weighting": weighting, "tasks": "+".join(names), "seed": seed}
    row |= {name: round(100 * found[f"test_{name}_acc"], 3) for name in DIGITS if name in names}
    if "rebuilt" in names:
        row["rebuilt"] = round(found["test_rebuilt_loss"] / (SCALE if setting == "scaled" else 1), 4)
    if isinstance(module.weighting, UncertaintyWeighting):
        row["sigmas"] = " ".join(f"{value:.3f}" for value in module.weighting.sigma().tolist())
    return row | {"seconds": round(seconds, 1)}


def multi_mnist(args: argparse.Namespace) -> None:
    path = Path(args.csv)
    done = set()
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            done = {(row["setting"], row["weighting"], row["tasks"], int(row["seed"])) for row in csv.DictReader(file)}
    else:
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    cells = [(*cell, seed) for seed in args.seeds for cell in rows(args.settings) if cell[1] in args.weightings]
    cells = [c for c in cells if (c[0], c[1], "+".join(c[2]), c[3]) not in done][: args.at_most]
    data = MultiMNISTDataModule(root=args.root, batch_size=256)
    for number, (setting, weighting, names, seed) in enumerate(cells, 1):
        row = run(data, setting, weighting, names, seed, args.epochs)
        with open(path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, restval="").writerow(row)
        print(f"run {number} of {len(cells)}: {row}", flush=True)


def table(args: argparse.Namespace) -> None:
    """Print mean and standard deviation over seeds of every row."""
    with open(args.csv, newline="", encoding="utf-8") as file:
        all_rows = list(csv.DictReader(file))
    print("| tasks | weighting | left % | right % | reconstruction error | seeds |\n|---|---|---|---|---|---|")
    keys = dict.fromkeys((row["setting"], row["weighting"]) for row in all_rows)
    for setting, weighting in keys:
        chosen = [row for row in all_rows if (row["setting"], row["weighting"]) == (setting, weighting)]
        cells = []
        for name, digits in (("left", 1), ("right", 1), ("rebuilt", 2)):
            values = [float(row[name]) for row in chosen if row[name]]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "")
        seeds = len({row["seed"] for row in chosen})
        print(f"| {setting} | {weighting} | {' | '.join(cells)} | {seeds} |")


def synthetic(args: argparse.Namespace) -> None:
    """Estimate the noise of two regressions."""
    for seed in args.seeds:
        torch.manual_seed(seed)
        x, noise = torch.randn(100, 1), torch.randn(100, 2)
        y = torch.cat([2 * x + 8, 3 * x + 3], 1) + noise * torch.tensor([10.0, 1.0])
        network = nn.Sequential(nn.Linear(1, 1024), nn.ReLU(), nn.Linear(1024, 2))
        weighting = UncertaintyWeighting(["y1", "y2"])
        groups = [{"params": network.parameters(), "lr": 1e-3}, {"params": weighting.parameters(), "lr": 0.02}]
        optimizer = torch.optim.Adam(groups)
        for _ in range(args.steps):
            error = (network(x) - y).square().mean(0)
            optimizer.zero_grad()
            weighting({"y1": error[0], "y2": error[1]}).backward()
            optimizer.step()
        residual = y - torch.cat([2 * x + 8, 3 * x + 3], 1)
        print(
            f"seed {seed}: sigma {', '.join(f'{s:.3f}' for s in weighting.sigma().tolist())}; noise of the data "
            f"{', '.join(f'{s:.3f}' for s in residual.square().mean(0).sqrt().tolist())}",
            flush=True,
        )


def step_of(backbone: str, tasks: dict[str, dict[str, Any]], weighting: str, batch: Batch) -> Callable[[], float]:
    """Return a function that does a training step on a batch and returns its CPU seconds."""
    torch.manual_seed(0)
    module = MultiTaskModule(tasks, weighting=weighting, backbone=backbone, image_size=64)
    module.configure_model()
    groups = parameter_groups(module, lr=1e-3, weight_decay=0.05)
    optimizer = build_optimizer("adamw", groups, lr=1e-3)

    def step() -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = module.step(batch, "train")["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - start

    return step


def steps(args: argparse.Namespace) -> None:
    """Compare a step of three tasks with one step of each."""
    data = ShapesDataModule(image_size=64, num_images=64, shapes_per_image=4, targets="all", batch_size=32)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    dense = {"channels": 64, "classes": data.box_classes}
    tasks = {
        "shape": {"type": "classification", "num_classes": len(data.class_names)},
        "objects": {"type": "detection", "strides": [4, 8, 16], **dense},
        "pixels": {"type": "segmentation", "stride": 2, **dense, "classes": data.mask_classes},
    }
    for backbone in args.backbones:
        together = step_of(backbone, tasks, "uncertainty", batch)
        apart = [step_of(backbone, {name: options}, "equal", batch) for name, options in tasks.items()]
        pairs = [(together(), sum(step() for step in apart)) for _ in range(args.rounds + 2)][2:]
        ratio = statistics.median(one / several for one, several in pairs)
        joint, separate = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"{backbone}: {joint:.0f} ms together, {separate:.0f} ms apart, ratio {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages: Any = parser.add_subparsers(dest="stage", required=True)
    for name in ("synthetic", "multi_mnist", "table", "steps"):
        stage = stages.add_parser(name)
        stage.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        stage.add_argument("--csv", default="multi_mnist.csv", help="table of all runs")
        stage.add_argument("--root", default=os.environ.get("LIT_CV_DATA", "data"), help="folder of MNIST")
        stage.add_argument("--epochs", type=int, default=5)
        stage.add_argument("--steps", type=int, default=2000, help="steps of `synthetic`")
        stage.add_argument("--settings", nargs="+", default=["plain", "rebuilt", "scaled"])
        stage.add_argument("--backbones", nargs="+", default=["resnet9_small", "resnet9"], help="backbones of `steps`")
        stage.add_argument("--rounds", type=int, default=10, help="rounds of `steps`")
        stage.add_argument("--weightings", nargs="+", default=[*WEIGHTINGS, "single"])
        stage.add_argument("--at_most", type=int, default=None, help="maximum runs in this call")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    {"synthetic": synthetic, "multi_mnist": multi_mnist, "table": table, "steps": steps}[args.stage](args)


if __name__ == "__main__":
    main()
