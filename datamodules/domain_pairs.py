"""Two sets of images with the same look of batch: converted to common images, and fetched side by side."""

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
from datamodules.loader import Batch, EpochSampler
from datamodules.memory import channel_statistics

__all__ = ["SOURCE", "TARGET", "ConvertedDataset", "PairDataset", "PairSampler", "convert_images"]

SOURCE, TARGET = 0, 1
_SAMPLE = 2048  # images that mean and standard deviation are estimated from
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601), as PIL has it


def convert_images(images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Return images with another number of channels and another size.

    Grey is repeated, color becomes its luma; the centered part of the wanted shape is resized with antialiasing.

    Args:
        images: (N, C, H, W) uint8.
        channels: Channels wanted.
        size: Height and width wanted, in pixels.

    Returns:
        (N, channels, *size) uint8.

    Raises:
        ValueError: If the channels are neither 1 nor 3 and must change.

    Example:
        >>> convert_images(torch.zeros(2, 1, 16, 20, dtype=torch.uint8), 3, (28, 28)).shape
        torch.Size([2, 3, 28, 28])
    """
    given, height, width = images.shape[1:]
    if given != channels:
        if {given, channels} != {1, 3}:
            raise ValueError(f"images of {given} channels cannot be given {channels}: only grey and color convert.")
        if channels == 1:
            grey = (images * torch.tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
            images = grey.round_().clamp_(0, 255).to(torch.uint8)
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
    """The images of another set with common channels and size, and the number of their domain.

    A batch has `image`, `label`, `index` (the position in this set) and `domain` (N,) int64; masks and boxes, which
    would not fit the images any more, are left out.

    Args:
        base: The set.
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
        """Return the images of these positions of the other set, and their domain."""
        images = convert_images(self.base.read(self.base.rows[rows])["image"], self.channels, self.size)
        return {"image": images, "domain": torch.full((len(rows),), self.domain)}

    def sample_name(self, index: int) -> str:
        """Return the name that the other set gives to a sample."""
        return self.base.sample_name(int(self.rows[index]))

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and standard deviation of each channel in [0, 1] units, over some images spread evenly."""
        if self.base.statistics() is None:
            return None
        chosen = np.linspace(0, len(self) - 1, min(len(self), _SAMPLE)).astype(np.int64)
        return channel_statistics(self.read(self.rows[chosen])["image"].numpy())


class PairDataset(Dataset[Batch]):
    """Source images with labels, and target images without, fetched side by side.

    A batch is `{"source": {"image", "label", "index"}, "target": {"image", "index"}}`. There is no other entry, so
    that nothing a target set knows of its images reaches training.

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
        """Return the batch of these pairs of positions; a single number stands for that pair, each set repeated."""
        positions = np.asarray(indices, dtype=np.int64)
        if positions.ndim == 1:  # Lightning's own samplers know nothing of pairs (overfit_batches)
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
    """Deals pairs of a source and a target position out to the processes, a function of (seed, epoch).

    An epoch is one pass through the larger set; the smaller one is passed through as often as that takes, each pass
    in a new order. Both orders are independent, and every process gets a share of both sets of its own.

    Args:
        sizes: Number of source and of target samples.
        seed: Seed of the orders; `None` takes the one that `lightning.seed_everything` was given, otherwise 0.
        num_replicas: Number of processes.
        rank: This process, from 0.
        drop_last: Whether samples of the larger set that cannot be dealt out evenly are left out.
        classes: Classes (source samples,) by which source samples are drawn, -1 for none; `None` draws all alike.
        balance: How far they are drawn equally often, see `BalancedSampler`.

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
        """Return this process's pairs of the epoch, (len, 2), the skipped ones included."""
        dealt = len(self) * self.num_replicas
        columns = [self._column(domain, size, dealt) for domain, size in enumerate(self.sizes)]
        return np.stack(columns, 1)[self.rank :: self.num_replicas]

    def _column(self, domain: int, size: int, count: int) -> NDArray[np.int64]:
        words = [self.seed, self.epoch, self.cycle, domain]
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words)))
        if domain == SOURCE and self.classes is not None:
            return balanced_positions(self.classes, self.balance, count, random)
        passes = [random.permutation(size) for _ in range(-(-count // size))]
        return np.concatenate(passes)[:count].astype(np.int64)
