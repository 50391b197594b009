"""Speed of transfer learning on photographs: the loader alone, and an epoch, compared with common tools.

Both parts read JPEG files from a folder of classes and measure all tools in turn, in one process, with the same number
of threads and workers. They print medians over rounds.

    python scripts/benchmark_transfer.py loader --root data/clothing/train      # images/s of uint8 batches
    python scripts/benchmark_transfer.py epoch --root data/clothing/train       # seconds of an epoch of fine-tuning

`loader` crops at random, flips and batches 224-pixel images without normalizing them: ImageFolder with
torchvision.transforms.v2, timm's loader, and WebDataset (tar shards of the same files) augment one image at a time in
the workers. lit_cv delivers images of 8/7 of the side and augments complete batches afterwards; it is measured with and
without that. `epoch` fine-tunes all of EfficientNet-Lite0 with AdamW in fastai, in a plain loop and in lit_cv. Tools
that are not installed are skipped: `pip install "lit_cv[bench]"`.
"""

import argparse
import importlib.util
import logging
import statistics
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from datamodules import ImageFolderDataModule
from lit_cv import Augmentation, FineTuneModule
from lit_cv.augment import build_operations
from lit_cv.nn import create_backbone

BACKBONE = "efficientnet_lite0"
Measure = Callable[[], float]


def sample_files(root: Path, count: int, folder: Path) -> Path:
    """Link `count` files, spread evenly over a folder of classes, into `folder/train`."""
    paths = sorted(root.glob("*/*.jpg"))
    for number in range(count):
        path = paths[number * len(paths) // count]
        target = folder / "train" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    return folder


def our_data(folder: Path, size: int, batch_size: int, workers: int) -> ImageFolderDataModule:
    data = ImageFolderDataModule(
        str(folder), image_size=size, train_image_size=size * 8 // 7, batch_size=batch_size, num_workers=workers,
        val_fraction=0.0,
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    return data


def images_per_second(batches: Iterable[Any], images: Callable[[Any], Tensor], seconds: float) -> float:
    """Return images per second over at least that many seconds, after two batches."""
    iterator, count, start, step = iter(batches), 0, 0.0, 0
    while step < 3 or time.perf_counter() - start < seconds:
        batch = next(iterator, None)
        if batch is None:
            iterator = iter(batches)
            continue
        count += len(images(batch))
        step += 1
        if step == 2:
            count, start = 0, time.perf_counter()
    return count / (time.perf_counter() - start)


def v2_loader(folder: Path, args: argparse.Namespace, workers: int) -> Iterable[Any]:
    transform = v2.Compose([v2.RandomResizedCrop(args.size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return DataLoader(ImageFolder(folder / "train", transform), args.batch, shuffle=True, num_workers=workers)


def timm_loader(folder: Path, args: argparse.Namespace, workers: int) -> Iterable[Any]:
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader

    loader = create_loader(
        create_dataset("", str(folder / "train")), (3, args.size, args.size), args.batch, is_training=True,
        num_workers=workers, device=torch.device("cpu"), persistent_workers=False, color_jitter=None,
    )  # fmt: skip
    batches: Iterable[Any] = loader.loader  # uint8, before its prefetcher normalizes
    return batches


def web_loader(folder: Path, args: argparse.Namespace, workers: int) -> Iterable[Any]:
    import webdataset

    shards = max(1, workers)
    for shard in range(shards):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as tar:
            for path in sorted((folder / "train").glob("*/*.jpg"))[shard::shards]:
                tar.add(path.resolve(), f"{path.stem}.jpg")
    transform = v2.Compose([v2.RandomResizedCrop(args.size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    urls = [str(folder / f"shard-{shard}.tar") for shard in range(shards)]
    samples = webdataset.WebDataset(urls, shardshuffle=False).shuffle(200).decode("pil").to_tuple("jpg")
    batches = samples.map_tuple(transform).batched(args.batch)
    loader: Iterable[Any] = webdataset.WebLoader(batches, batch_size=None, num_workers=workers)
    return loader


def loaders(folder: Path, args: argparse.Namespace, workers: int) -> dict[str, Measure]:
    """Return the measurement of each loader."""
    crop = build_operations([{"name": "random_resized_crop", "size": args.size}, {"name": "horizontal_flip"}])
    ours = our_data(folder, args.size, args.batch, workers).train_dataloader()
    peers = {"ImageFolder + v2": v2_loader}
    if importlib.util.find_spec("timm"):
        peers["timm"] = timm_loader
    if importlib.util.find_spec("webdataset"):
        peers["WebDataset + v2"] = web_loader
    measures: dict[str, Measure] = {}
    for name, make in peers.items():
        batches = make(folder, args, workers)
        measures[name] = lambda batches=batches: images_per_second(batches, lambda batch: batch[0], args.seconds)
    measures["lit_cv, crop and flip included"] = lambda: images_per_second(
        ours, lambda batch: crop(batch["image"]), args.seconds
    )
    measures["lit_cv"] = lambda: images_per_second(ours, lambda batch: batch["image"], args.seconds)
    return measures


def network(classes: int, size: int) -> nn.Module:
    features = create_backbone(BACKBONE, weights="DEFAULT", in_channels=3, image_size=size, stem="standard")
    return nn.Sequential(features, nn.Linear(features.num_features, classes))


def plain_epoch(folder: Path, args: argparse.Namespace, workers: int) -> Measure:
    """Return the measurement of a plain PyTorch loop."""
    loader = v2_loader(folder, args, workers)
    model = network(len(list((folder / "train").iterdir())), args.size).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def epoch() -> float:
        start = time.perf_counter()
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        return time.perf_counter() - start

    return epoch


def fastai_epoch(folder: Path, args: argparse.Namespace, workers: int) -> Measure:
    """Return the measurement of fastai's Learner with its own loader; its crop and flip run in the workers."""
    from fastai.callback import progress  # noqa: F401 - adds methods to Learner
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.optimizer import Adam
    from fastai.vision.augment import FlipItem, RandomResizedCrop
    from fastai.vision.data import ImageDataLoaders

    data = ImageDataLoaders.from_folder(
        folder, train="train", valid="train", item_tfms=[RandomResizedCrop(args.size), FlipItem()], bs=args.batch,
        num_workers=workers, device=torch.device("cpu"),
    )  # fmt: skip
    data.valid = data.train  # is not run
    learner = Learner(
        data, network(len(data.vocab), args.size), loss_func=CrossEntropyLossFlat(), opt_func=Adam, lr=1e-4,
        path=folder, train_bn=True,
    )  # fmt: skip
    learner._do_epoch_validate = lambda *_, **__: None

    def epoch() -> float:
        with learner.no_bar(), learner.no_logging():
            start = time.perf_counter()
            learner.fit(1)
            return time.perf_counter() - start

    return epoch


class Clock(L.Callback):
    """Measures the seconds of each training epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def our_epoch(folder: Path, args: argparse.Namespace, workers: int) -> Measure:
    """Return the measurement of FineTuneModule under Lightning's Trainer, augmented in batches."""

    def epoch() -> float:
        clock = Clock()
        operations = [{"name": "random_resized_crop", "size": args.size}, {"name": "horizontal_flip"}]
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, max_epochs=1, limit_val_batches=0,
            callbacks=[Augmentation(operations=operations), clock],
        )  # fmt: skip
        module = FineTuneModule(
            strategy="full_finetune", backbone=BACKBONE, weights="DEFAULT", stem="standard", optimizer="adamw", lr=1e-4
        )
        trainer.fit(module, our_data(folder, args.size, args.batch, workers))
        return clock.seconds[0]

    return epoch


def epochs(folder: Path, args: argparse.Namespace, workers: int) -> dict[str, Measure]:
    """Return the measurement of each tool's epoch."""
    measures = {"plain loop": plain_epoch(folder, args, workers)}
    if importlib.util.find_spec("fastai"):
        measures["fastai"] = fastai_epoch(folder, args, workers)
    return measures | {"lit_cv": our_epoch(folder, args, workers)}


def compare(measures: dict[str, Measure], rounds: int) -> dict[str, float]:
    """Measure in turn, and return the medians."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            values[name].append(measure())
    return {name: statistics.median(each) for name, each in values.items()}


def main() -> None:
    """Measure a part with each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("loader", "epoch"))
    parser.add_argument("--root", type=Path, required=True, help="folder that holds a folder of JPEG files a class")
    parser.add_argument("--size", type=int, help="side of the images in pixels; 224 for loaders, 128 for epochs")
    parser.add_argument("--images", type=int, default=640, help="images of an epoch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of a loader")
    args = parser.parse_args()
    args.size = args.size or (224 if args.part == "loader" else 128)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    unit = "images/s" if args.part == "loader" else "s an epoch"
    with tempfile.TemporaryDirectory() as name:
        folder = sample_files(args.root, args.images, Path(name))
        for workers in args.workers:
            measures = (loaders if args.part == "loader" else epochs)(folder, args, workers)
            medians = compare(measures, args.rounds)
            base = next(iter(medians.values()))
            for tool, value in medians.items():
                ratio = value / base if args.part == "loader" else base / value
                print(f"{workers} workers  {tool:<34}{value:>10,.1f} {unit}{ratio:>8.2f}x", flush=True)


if __name__ == "__main__":
    main()
