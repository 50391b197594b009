"""Measure speed and memory of SimCLR, compared with a plain implementation of the loss and with lightly.

`loss`: NT-Xent forward and backward, 128 dimensions, one thread: the plain form (one matrix product, masked diagonal,
cross_entropy), lightly's and lit_cv's, measured in turn, medians; then the memory that one pass needs in addition to
its input, each in a separate process. `epoch`: a complete training epoch on JPEG files (decoding, two views, forward,
backward, step), by this project and by lightly's dataset, transform, DataLoader, head and loss in a plain Lightning
module; same images, backbone, batch size, optimizer and precision, each with its best number of workers.

    python scripts/benchmark_simclr.py loss
    python scripts/benchmark_simclr.py epoch --root $LIT_CV_DATA/cifar10_jpeg/train --size 32 --backbone conv4_tiny
    python scripts/benchmark_simclr.py epoch --root PHOTOS --size 224 --backbone resnet18 --batch 32

`compare_self_supervised.py` compares the accuracies.
"""

import argparse
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import ImageFolderDataModule
from lit_cv import ContrastiveAugmentation, SimCLRModule
from lit_cv.losses import NTXentLoss
from lit_cv.nn import create_backbone
from lit_cv.nn.compact import COMPACT, Conv4
from lit_cv.optim import build_optimizer, parameter_groups

DIM, TEMPERATURE = 128, 0.5
COMPACT["conv4_tiny"] = (Conv4, 16)  # on a CPU, its share of a step is as small as that of a large network on a GPU
Loss = Callable[[Tensor, Tensor], Tensor]


def plain(z0: Tensor, z1: Tensor) -> Tensor:
    """Compute NT-Xent in four lines."""
    n = len(z0)
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    similarity = (z @ z.T / TEMPERATURE).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(similarity, torch.arange(2 * n).roll(n))


def losses() -> dict[str, Loss]:
    by_name: dict[str, Loss] = {"plain": plain, "lit_cv": NTXentLoss(TEMPERATURE)}
    try:
        from lightly.loss import NTXentLoss as Theirs

        by_name["lightly"] = Theirs(TEMPERATURE)
    except ImportError:
        print("lightly is not installed: pip install lightly")
    return by_name


def once(loss: Loss, n: int) -> Tensor:
    torch.manual_seed(0)
    z0, z1 = (torch.randn(n, DIM, requires_grad=True) for _ in range(2))
    start = time.perf_counter()
    loss(z0, z1).backward()
    once.seconds = time.perf_counter() - start  # type: ignore[attr-defined]
    assert z0.grad is not None
    return z0.grad


def benchmark_loss(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    works = losses()
    print(f"{'N':>6}  {'loss':10}{'ms':>9}{'of plain':>10}{'extra MiB':>11}{'gradient error':>16}")
    for n in args.sizes:
        # The complete matrix of 16,384 pairs takes many gigabytes.
        names = [name for name in works if n < 16384 or name == "lit_cv"]
        times: dict[str, list[float]] = {name: [] for name in names}
        grads = {name: once(works[name], n) for name in names}
        for _ in range(args.rounds if n <= 4096 else 3):
            for name in names:
                once(works[name], n)
                times[name].append(once.seconds)  # type: ignore[attr-defined]
        for name in names:
            took = statistics.median(times[name])
            memory = subprocess.run(
                [sys.executable, __file__, "memory", "--name", name, "--sizes", str(n)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()[-1]
            ratio = f"{took / statistics.median(times['plain']):9.2f}x" if "plain" in times else f"{'-':>10}"
            error = f"{float((grads[name] - grads['plain']).abs().max()):16.1e}" if "plain" in grads else f"{'-':>16}"
            print(f"{n:6}  {name:10}{took * 1e3:9.2f}{ratio}{memory:>11}{error}", flush=True)


def measure_memory(args: argparse.Namespace) -> None:
    """Print the rise of the peak resident memory in one pass, in MiB."""
    torch.set_num_threads(1)
    work = losses()[args.name]
    once(work, 64)
    z0, z1 = (torch.randn(args.sizes[0], DIM, requires_grad=True) for _ in range(2))
    for z in (z0, z1):
        z.grad = torch.ones_like(z)  # allocates the gradient, which does not count
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current resident memory
    before = resident("VmRSS")
    work(z0, z1).backward()
    print(f"{(resident('VmHWM') - before) / 1024:.0f}")


def resident(name: str) -> int:
    """Return a memory value of this process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


class Lightly(L.LightningModule):
    """SimCLR as in lightly's documentation."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        from lightly.loss import NTXentLoss as Theirs
        from lightly.models.modules import SimCLRProjectionHead

        stem: Any = "small" if args.size <= 64 and args.backbone.startswith("resnet1") else "standard"
        self.backbone = create_backbone(args.backbone, image_size=args.size, stem=stem)
        self.backbone.to(memory_format=torch.channels_last)
        width = self.backbone.num_features
        self.head = SimCLRProjectionHead(width, width, 128)
        self.loss = Theirs(TEMPERATURE)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Encode the two views, one after the other."""
        (x0, x1), _, _ = batch
        loss: Tensor = self.loss(self.head(self.backbone(x0)), self.head(self.backbone(x1)))
        return loss

    def configure_optimizers(self) -> Any:
        """Return the same optimizer as the compared module."""
        return build_optimizer("adamw", parameter_groups(self, 1e-3, 0.05), 1e-3, 0.05)


class EpochClock(L.Callback):
    """Records the seconds of each epoch."""

    def __init__(self, cpu: bool = False) -> None:
        self._now = time.process_time if cpu else time.perf_counter
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, *args: Any) -> None:
        """Record the start of an epoch."""
        self._start = self._now()

    def on_train_epoch_end(self, *args: Any) -> None:
        """Record the seconds of the epoch."""
        self.seconds.append(self._now() - self._start)


def fit(args: argparse.Namespace, who: str, workers: int) -> float:
    """Return the median seconds of an epoch without the first, which starts workers and allocates memory."""
    L.seed_everything(0, verbose=False)
    clock = EpochClock(args.cpu)
    callbacks: list[L.Callback] = [clock]
    blur = 0.0 if args.size < 64 else 0.5
    if who == "lightly":
        from lightly.data import LightlyDataset
        from lightly.transforms import SimCLRTransform

        transform = SimCLRTransform(args.size, cj_strength=args.strength, gaussian_blur=blur, normalize=None)
        loader: Any = DataLoader(
            LightlyDataset(args.root, transform=transform),
            args.batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        module: L.LightningModule = Lightly(args)
    else:
        callbacks.append(ContrastiveAugmentation(args.size, strength=args.strength, blur=blur))
        module = SimCLRModule(backbone=args.backbone, schedule="constant", temperature=TEMPERATURE)
        loader = ImageFolderDataModule(
            root=args.copy,
            image_size=args.size,
            train_image_size=args.size if args.size < 64 else args.size * 8 // 7,
            batch_size=args.batch,
            num_workers=workers,
            val_fraction=0.0,
            test_fraction=0.0,
            cache=who == "lit_cv, cached",
        )
    L.Trainer(
        max_epochs=args.epochs + 1,
        limit_train_batches=args.batches or 1.0,
        callbacks=callbacks,
        precision=args.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loader)
    return statistics.median(clock.seconds[1:])


def benchmark_epoch(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        # Decoded images are cached beside the files, hence a writable copy.
        args.copy = f"{folder}/images"
        shutil.copytree(args.root, args.copy)
        for who, choices in {
            "lit_cv": args.workers,
            "lit_cv, cached": [0],
            "lightly": args.workers,
        }.items():
            for workers in choices:
                seconds = fit(args, who, workers)
                best[who] = min(seconds, best.get(who, seconds))
                print(f"{who:16}{workers:3} workers{seconds:9.2f} s per epoch", flush=True)
    for who in ("lit_cv", "lit_cv, cached"):
        print(
            f"{who}: {best['lightly'] / best[who]:.2f} times as fast as lightly, each with its best number of workers"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loss", "epoch", "memory"])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[256, 2048, 8192, 16384], help="numbers N of images, for `loss`"
    )
    parser.add_argument("--rounds", type=int, default=11, help="rounds of `loss`")
    parser.add_argument("--name", help="loss to measure, for `memory`")
    parser.add_argument("--root", help="folder with a folder of images for each class")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--backbone", default="conv4", help="conv4_tiny is a conv4 of 16 channels")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, help="maximum batches per epoch")
    parser.add_argument("--epochs", type=int, default=1, help="epochs measured after the first")
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--cpu", action="store_true", help="measure CPU time of one thread without workers, for busy machines"
    )
    args = parser.parse_args()
    if args.cpu:
        args.threads, args.workers = 1, [0]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    {"loss": benchmark_loss, "epoch": benchmark_epoch, "memory": measure_memory}[args.what](args)


if __name__ == "__main__":
    main()
