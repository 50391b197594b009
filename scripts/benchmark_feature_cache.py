"""How much faster a classifier trains on features that are kept than on a backbone that is run again.

Measures whole epochs of `FineTuneModule(strategy="feature_extraction")`, validation included, with and without
`cache_features`, and compares the accuracies. The time to compute the features is printed apart.

python scripts/benchmark_feature_cache.py --root data/FashionMNIST_root [--folder data/cifar10_jpeg]
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any

import lightning as L

from datamodules import FashionMNISTDataModule, ImageFolderDataModule
from lit_cv import FineTuneModule


class EpochTimes(L.Callback):
    """Notes when epochs end, validation included."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        """Note the start of an epoch, which is the end of the one before."""
        self.marks.append(time.perf_counter())

    def on_train_end(self, *args: Any) -> None:
        """Note the end of the last epoch."""
        self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Seconds of each epoch."""
        return [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]


def measure(name: str, data: Any, backbone: str, epochs: tuple[int, int]) -> None:
    found = {}
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
        found[cache] = statistics.median(times.seconds[1:])
        print(
            f"{name}, {backbone}, cache_features={cache}: {found[cache]:.3f} s an epoch (median from the second on; "
            f"{before:.1f} s before the first), val_acc {accuracy:.4f} after {epochs[cache]} epochs",
            flush=True,
        )
    print(f"{name}, {backbone}: {found[False] / found[True]:.0f} times faster", flush=True)


def main() -> None:
    """Measure on images in memory and, if asked to, on files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of Fashion-MNIST")
    parser.add_argument("--folder", help="folder of images for ImageFolderDataModule")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lit_cv"):
        logging.getLogger(name).setLevel(logging.ERROR)
    few: dict[str, Any] = {"labels_per_class": 400, "batch_size": 64}
    measure("Fashion-MNIST 28x28", lambda: FashionMNISTDataModule(root=args.root, val_fraction=0.02, **few),
            "resnet9_small", (4, 4))  # fmt: skip
    if args.folder:
        options = {"image_size": 64, "num_workers": 2, **few}
        measure("image files 64x64", lambda: ImageFolderDataModule(root=args.folder, **options), "resnet18", (3, 3))


if __name__ == "__main__":
    main()
