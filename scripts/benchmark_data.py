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


def normalise(images: Tensor) -> Tensor:
    """Do what a backbone does with a uint8 batch."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return torch.addcmul(-mean / std, images.float() if images.dtype == torch.uint8 else images * 255, 1 / (255 * std))


def ours(operations: list[dict[str, Any]]) -> Callable[[Any], Tensor]:
    """Return the batched augmentation followed by the normalisation."""
    augment = build_operations(operations)
    return lambda batch: normalise(augment(batch["image"]))


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
