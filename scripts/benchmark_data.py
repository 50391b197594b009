"""Images per second of the data path, from the set to a normalised, augmented float batch, against torchvision's.

Peers read one image at a time: PIL and torchvision.transforms.v2 in a DataLoader. Ours fetches a whole uint8 batch and
augments it at once. Each is measured in turn, with the same number of threads and workers; medians over rounds.

    python scripts/benchmark_data.py --threads 1
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from datamodules import ImageFolderDataModule, InMemoryDataset, ResumableLoader
from lit_cv.augment import build_operations
from lit_cv.nn import create_backbone

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BATCH = 128


class PILDataset(Dataset[Any]):
    """What torchvision's CIFAR10 does: an array becomes a PIL image, then goes through the transforms."""

    def __init__(self, images: np.ndarray[Any, Any], transform: Callable[[Any], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


def rate(batches: Iterable[Any], finish: Callable[[Any], Any], seconds: float) -> float:
    """Return images per second over about that many seconds, after a warm-up of two batches."""
    count, start = 0, 0.0
    iterator = iter(batches)
    for step in range(10**6):
        batch = next(iterator, None)
        if batch is None:
            iterator = iter(batches)
            continue
        images = finish(batch)
        if step < 2:
            start = time.perf_counter()
            continue
        count += len(images)
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def ours(operations: list[dict[str, Any]]) -> Callable[[Any], Tensor]:
    """Return the batched augmentation followed by the normalisation."""
    augment = build_operations(operations)
    normalize = create_backbone("conv4").normalize
    return lambda batch: normalize(augment(batch["image"]))


def compare(name: str, peers: dict[str, Callable[[], float]], rounds: int) -> None:
    """Measure in turn and print each one's median and its ratio to the first."""
    rates: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer, measure in peers.items():
            rates[peer].append(measure())
    medians = {peer: statistics.median(values) for peer, values in rates.items()}
    base = next(iter(medians.values()))
    for peer, value in medians.items():
        print(f"{name:<28}{peer:<34}{value:>12,.0f} images/s{value / base:>9.2f}x", flush=True)


def in_memory(rounds: int, seconds: float) -> None:
    """Fetch, padded crop, flip and normalise 32x32 images that are in memory."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    peer = DataLoader(PILDataset(images, transform), BATCH, shuffle=True)
    dataset = InMemoryDataset(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.zeros(20_000).long())
    loader = ResumableLoader(dataset, batch_size=BATCH, shuffle=True)
    finish = ours([{"name": "random_crop", "padding": 4}, {"name": "horizontal_flip"}])
    compare(
        "in memory, 32 px",
        {
            "PIL + v2, an image at a time": lambda: rate(peer, lambda batch: batch[0], seconds),
            "lit_cv": lambda: rate(loader, finish, seconds),
            "lit_cv, fetch alone": lambda: rate(loader, lambda batch: batch["image"], seconds),
        },
        rounds,
    )


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of about 256 pixels with edges and texture, as photographs have them."""
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((341, 256), Image.Resampling.BICUBIC)).astype(np.int16)
        image = image + generator.normal(0, 12, image.shape).astype(np.int16)
        target = folder / "train" / f"class{index % 4}"
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(target / f"{index:05}.jpg", quality=90)


def photographs(rounds: int, seconds: float, workers: int) -> None:
    """Read JPEG files into augmented batches of 224 pixels."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    finish = ours([{"name": "random_resized_crop", "size": 224}, {"name": "horizontal_flip"}])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder, 1280)
        peer = DataLoader(ImageFolder(folder / "train", transform), 64, shuffle=True, num_workers=workers)

        def loader(cache: bool) -> Iterable[Any]:
            data = ImageFolderDataModule(
                str(folder), image_size=224, train_size=256, batch_size=64, num_workers=workers, cache=cache
            )
            data.prepare_data()
            data.setup("fit")
            return data.train_dataloader()

        plain, cached = loader(cache=False), loader(cache=True)
        compare(
            f"JPEG to 224 px, {workers} workers",
            {
                "ImageFolder + PIL + v2": lambda: rate(peer, lambda batch: batch[0], seconds),
                "lit_cv": lambda: rate(plain, finish, seconds),
                "lit_cv, cached": lambda: rate(cached, finish, seconds),
            },
            rounds,
        )


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} thread(s), median of {args.rounds} rounds of {args.seconds} s, in turn")
    in_memory(args.rounds, args.seconds)
    for workers in (0, 2):
        photographs(args.rounds, args.seconds, workers)


if __name__ == "__main__":
    main()
