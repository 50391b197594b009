"""Datasets of two domains: conversion to a common image format, and fetching in pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.balance import balanced_positions
from datamodules.dataset import ImageDataset, Rows
from datamodules.loader import EpochSampler, repeated_permutations
from datamodules.memory import channel_statistics
from lit_cv.contracts import Batch

__all__ = ["SOURCE", "TARGET", "ConvertedDataset", "PairDataset", "PairSampler", "convert_images"]

SOURCE, TARGET = 0, 1
_SAMPLE = 2048  # images to estimate mean and standard deviation from
_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601), as in Pillow


def convert_images(images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Convert images to another number of channels and another size.

    Gray is repeated, color becomes its luma; the largest centered part of the target shape is resized with
    antialiasing.

    Args:
        images: (N, C, H, W) uint8.
        channels: Target number of channels.
        size: Target height and width in pixels.

    Returns:
        (N, channels, *size) uint8.

    Raises:
        ValueError: If the number of channels changes other than between 1 and 3.

    Example:
        >>> convert_images(torch.zeros(2, 1, 16, 20, dtype=torch.uint8), 3, (28, 28)).shape
        torch.Size([2, 3, 28, 28])
    """
    current, height, width = images.shape[1:]
    if current != channels:
        if {current, channels} != {1, 3}:
            raise ValueError(
                f"images with {current} channels cannot be converted to {channels}: only gray and color images can."
            )
        if channels == 1:
            gray = (images * torch.tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
            images = gray.round_().clamp_(0, 255).to(torch.uint8)
        else:
            images = images.expand(-1, 3, -1, -1)
    if (height, width) == size:
        return images.contiguous()
    scale = min(height / size[0], width / size[1])
    part = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (height - part[0]) // 2, (width - part[1]) // 2
    images = images[:, :, top : top + part[0], left : left + part[1]]
    return images if part == size else F.interpolate(images, size, mode="bilinear", antialias=True)


class ConvertedDataset(ImageDataset):
    """Images of another dataset, converted to common channels and size, with the number of their domain.

    A batch has `image`, `label`, `index` (the position in this dataset) and `domain` (N,) int64; masks and boxes are
    dropped, as they would no longer match the images.

    Args:
        base: The dataset.
        channels: Channels of the images.
        size: Height and width of the images in pixels.
        domain: 0 for the source, 1 for the target.
    """

    def __init__(self, base: ImageDataset, channels: int, size: tuple[int, int], domain: int) -> None:
        super().__init__(base.labels, base.class_names)
        self.base = base
        self.channels, self.size, self.domain = channels, size, domain
        self.in_memory = base.in_memory

    def read(self, rows: Rows) -> Batch:
        """Return the images of these positions of the base dataset, and their domain."""
        images = convert_images(self.base.read(self.base.rows[rows])["image"], self.channels, self.size)
        return {"image": images, "domain": torch.full((len(rows),), self.domain)}

    def sample_name(self, index: int) -> str:
        """Return the name of a sample in the base dataset."""
        return self.base.sample_name(int(self.rows[index]))

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and standard deviation of each channel in [0, 1] units, estimated from evenly spread images."""
        if self.base.statistics() is None:
            return None
        chosen = np.linspace(0, len(self) - 1, min(len(self), _SAMPLE)).astype(np.int64)
        return channel_statistics(self.read(self.rows[chosen])["image"].numpy())


class PairDataset(Dataset[Batch]):
    """Labeled source images and unlabeled target images, fetched in pairs.

    A batch is `{"source": {"image", "label", "index"}, "target": {"image", "index"}}`. There are no other entries, so
    that no target annotations leak into training.

    Args:
        source: The source domain.
        target: The target domain.
    """

    def __init__(self, source: ImageDataset, target: ImageDataset) -> None:
        self.source, self.target = source, target
        self.in_memory = source.in_memory and target.in_memory

    def __len__(self) -> int:
        return max(len(self.source), len(self.target))

    def __getitems__(self, indices: Sequence[Any]) -> Batch:
        """Return the batch of these pairs of positions; a single number is used for both, modulo the dataset sizes."""
        positions = np.asarray(indices, dtype=np.int64)
        if positions.ndim == 1:  # from Lightning's samplers (overfit_batches)
            positions = np.stack([positions % len(self.source), positions % len(self.target)], 1)
        source = self.source.__getitems__(positions[:, 0].tolist())
        target = self.target.__getitems__(positions[:, 1].tolist())
        return {
            "source": {name: source[name] for name in ("image", "label", "index")},
            "target": {name: target[name] for name in ("image", "index")},
        }

    def __getitem__(self, index: Any) -> Batch:
        parts = self.__getitems__([index])
        return {domain: {name: values[0] for name, values in part.items()} for domain, part in parts.items()}


class PairSampler(EpochSampler):
    """Distributes pairs of source and target positions over the ranks, as a function of (seed, epoch).

    An epoch is one pass over the larger domain; the smaller one is repeated as often as needed, each pass in a new
    order. Both orders are independent, and each rank gets a different share of both domains.

    Args:
        sizes: Number of source and of target samples.
        seed: Seed of the orders; `None` uses the seed of `lightning.seed_everything`, else 0.
        num_replicas: Number of ranks.
        rank: Rank of this process.
        drop_last: Whether samples of the larger domain that do not divide evenly are dropped.
        classes: Classes of source samples for balanced sampling, (source samples,), -1 for none; `None` draws all
            equally often.
        balance: Strength of the balancing, see `BalancedSampler`.

    Example:
        >>> pairs = list(PairSampler((2, 6), seed=0))
        >>> sorted(source for source, _ in pairs), sorted(target for _, target in pairs)
        ([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5])
    """

    def __init__(
        self,
        sizes: tuple[int, int],
        seed: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        drop_last: bool = False,
        classes: Tensor | None = None,
        balance: float = 0.0,
    ) -> None:
        super().__init__(max(sizes), True, seed, num_replicas, rank, drop_last)
        self.sizes = sizes
        self.classes, self.balance = None if classes is None else classes.numpy(), balance

    def order(self) -> NDArray[np.int64]:
        """Return this rank's pairs of the epoch, (len, 2), including skipped ones."""
        total = len(self) * self.num_replicas
        columns = [self._column(domain, size, total) for domain, size in enumerate(self.sizes)]
        return np.stack(columns, 1)[self.rank :: self.num_replicas]

    def _column(self, domain: int, size: int, count: int) -> NDArray[np.int64]:
        words = [self.seed, self.epoch, self.cycle, domain]
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words)))
        if domain == SOURCE and self.classes is not None:
            return balanced_positions(self.classes, self.balance, count, random)
        return repeated_permutations(size, count, random)
