"""Measure the speed of a classifier on cached features, and of nearest-neighbor classification.

    python scripts/benchmark_features.py cache --root data/FashionMNIST_root [--folder data/cifar10_jpeg]
    python scripts/benchmark_features.py knn

`cache` measures complete epochs of `FineTuneModule(strategy="feature_extraction")`, including validation, with and
without `cache_features`, and compares the accuracies; the time to compute the features is printed separately. `knn`
classifies by the 200 nearest of 20,000 features of 512 dimensions, compared with lightly's `knn_predict` in batches of
512 and scikit-learn's `KNeighborsClassifier`, measured in turn: medians of CPU time on one thread.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from datamodules import FashionMNISTDataModule, ImageFolderDataModule
from lit_cv import FineTuneModule
from lit_cv.metrics import knn_predictions


class EpochTimes(L.Callback):
    """Records when epochs start and end, including validation."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        """Record the start of an epoch, which is the end of the previous one."""
        self.marks.append(time.perf_counter())

    def on_train_end(self, *args: Any) -> None:
        """Record the end of the last epoch."""
        self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Seconds of each epoch."""
        return [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]


def measure(name: str, data: Any, backbone: str, epochs: tuple[int, int]) -> None:
    seconds = {}
    for cache in (False, True):
        L.seed_everything(0, verbose=False)
        times = EpochTimes()
        module = FineTuneModule(strategy="feature_extraction", backbone=backbone, cache_features=cache, lr=1e-2)
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=epochs[cache], logger=False, enable_checkpointing=False, callbacks=[times],
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tempfile.gettempdir(),
            num_sanity_val_steps=0,
        )  # fmt: skip
        start = time.perf_counter()
        trainer.fit(module, data())
        before = times.marks[0] - start
        accuracy = float(trainer.callback_metrics["val_acc"])
        seconds[cache] = statistics.median(times.seconds[1:])
        print(
            f"{name}, {backbone}, cache_features={cache}: {seconds[cache]:.3f} s per epoch (median without the first; "
            f"{before:.1f} s before the first), val_acc {accuracy:.4f} after {epochs[cache]} epochs",
            flush=True,
        )
    print(f"{name}, {backbone}: {seconds[False] / seconds[True]:.0f} times faster", flush=True)


def nearest_neighbors(num_classes: int, rounds: int) -> None:
    """Print the queries per second of each library, and how often their predictions agree."""
    from lightly.utils.benchmarking.knn import knn_predict

    torch.set_num_threads(1)
    torch.manual_seed(0)
    labels = torch.randint(num_classes, (20_000,))
    centers = torch.randn(num_classes, 512)
    bank = F.normalize(centers[labels] + 4 * torch.randn(20_000, 512), dim=1)
    queries = F.normalize(centers[torch.arange(2_000) % num_classes] + 4 * torch.randn(2_000, 512), dim=1)
    reference = KNeighborsClassifier(
        200, algorithm="brute", metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    reference.fit(bank.numpy(), labels.numpy())

    def peer() -> torch.Tensor:
        transposed = bank.T.contiguous()
        parts = [knn_predict(part, transposed, labels, num_classes, 200, 0.07)[:, 0] for part in queries.split(512)]
        return torch.cat(parts)

    libraries: dict[str, Callable[[], torch.Tensor]] = {
        "lit_cv": lambda: knn_predictions(queries, bank, labels, num_classes, k=[200])[0],
        "lightly": peer,
        "scikit-learn": lambda: torch.from_numpy(reference.predict(queries.numpy())),
    }
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    predictions = {}
    for _ in range(rounds):
        for name, predict in libraries.items():
            start = time.process_time()
            predictions[name] = predict()
            seconds[name].append(time.process_time() - start)
    reference_time = statistics.median(seconds["lit_cv"])
    for name, took in seconds.items():
        median, same = statistics.median(took), float((predictions[name] == predictions["lit_cv"]).float().mean())
        speed = f"{2_000 / median:8.0f} queries/s, {median / reference_time:5.2f} times lit_cv's time"
        print(f"{num_classes} classes, {name:<13}{speed}, {same:.1%} of the predictions agree", flush=True)


def main() -> None:
    """Run one of the two benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cache", "knn"))
    parser.add_argument("--root", default="data", help="folder of Fashion-MNIST")
    parser.add_argument("--folder", help="folder of images for ImageFolderDataModule")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lit_cv"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if args.what == "knn":
        for num_classes in (10, 1000):
            nearest_neighbors(num_classes, args.rounds)
        return
    few: dict[str, Any] = {"labels_per_class": 400, "batch_size": 64}
    measure("Fashion-MNIST 28x28", lambda: FashionMNISTDataModule(root=args.root, val_fraction=0.02, **few),
            "resnet9_small", (4, 4))  # fmt: skip
    if args.folder:
        options = {"image_size": 64, "num_workers": 2, **few}
        measure("image files 64x64", lambda: ImageFolderDataModule(root=args.folder, **options), "resnet18", (3, 3))


if __name__ == "__main__":
    main()
