"""Balanced sampling, which draws rare classes more often."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.loader import EpochSampler
from datamodules.splits import shares

__all__ = ["BalancedSampler", "balanced_positions", "rarest_classes"]

Positions = NDArray[np.int64]


def rarest_classes(present: Tensor) -> Tensor:
    """Return the rarest class of each image, measured by the number of images that have it.

    Repeat factor sampling uses it (Gupta et al. 2019, "LVIS", section 6).

    Args:
        present: (N, K) bool, the classes of each image.

    Returns:
        (N,) int64, -1 for images without any class.

    Example:
        >>> rarest_classes(torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0]]).bool()).tolist()
        [0, 1, -1]
    """
    images = present.sum(0)
    if present.shape[1] == 0:
        return torch.full((len(present),), -1)
    rarest = torch.where(present, images, len(present) + 1).argmin(1)
    return torch.where(present.any(1), rarest, -1)


def balanced_positions(classes: Positions, balance: float, count: int, random: np.random.RandomState) -> Positions:
    """Return the sample positions of an epoch in random order, drawing rare classes more often.

    The share of a class with n samples is proportional to n^(1 - balance), rounded by the largest remainder method.
    Within a class, the numbers of draws per sample differ by at most one. Samples without a class keep their share.

    Args:
        classes: (N,) class of each sample, -1 for none.
        balance: 0 for the natural shares of the classes, 1 for equal shares.
        count: Number of positions.
        random: Random number generator.

    Example:
        >>> drawn = balanced_positions(np.array([0, 0, 0, 0, 0, 1]), 1.0, 6, np.random.RandomState(0))
        >>> sorted(drawn.tolist()).count(5)
        3
    """
    values, sizes = np.unique(classes, return_counts=True)
    labeled = values >= 0
    weights = np.where(labeled, sizes ** (1.0 - balance), sizes)
    weights[labeled] *= sizes[labeled].sum() / max(weights[labeled].sum(), 1.0)
    order = np.argsort(classes, kind="stable")
    members = np.split(order, np.cumsum(sizes)[:-1])
    drawn = [
        np.resize(random.permutation(positions), share)
        for positions, share in zip(members, shares(weights, count), strict=True)
        if share
    ]
    return random.permutation(np.concatenate(drawn)).astype(np.int64)


class BalancedSampler(EpochSampler):
    """Distributes the samples of an epoch over the ranks like `EpochSampler`, drawing rare classes more often.

    Args:
        classes: (N,) int64, the class of each sample, -1 for none; see `balanced_positions`.
        balance: 0 for the natural shares of the classes, 1 for equal shares.
        seed: Seed of the order; `None` uses the seed of `lightning.seed_everything`, else 0.
        num_replicas: Number of ranks.
        rank: Rank of this process.
        drop_last: Whether samples that do not divide evenly are dropped instead of repeated.

    Example:
        >>> sampler = BalancedSampler(torch.tensor([0, 0, 0, 1]), balance=1.0, seed=0)
        >>> [position == 3 for position in sampler].count(True), len(sampler)
        (2, 4)
    """

    def __init__(
        self,
        classes: Tensor,
        balance: float,
        seed: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(len(classes), True, seed, num_replicas, rank, drop_last)
        self.classes, self.balance = classes.numpy(), balance

    def permutation(self, random: np.random.RandomState) -> Positions:
        """Return the sample positions of an epoch, with rare classes drawn more often."""
        return balanced_positions(self.classes, self.balance, self.size, random)
