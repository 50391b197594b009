"""Batches with a fixed number of labeled and of unlabeled images."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.balance import balanced_positions
from datamodules.loader import EpochSampler, repeated_permutations

__all__ = ["MixedSampler"]


class MixedSampler(EpochSampler):
    """Deals batches of labeled and unlabeled samples out to the ranks, as a function of (seed, epoch).

    Each batch of a rank is `batch_size` labeled positions followed by `ratio * batch_size` unlabeled ones. An epoch is
    one pass through the unlabeled samples, or through the labeled ones where these last longer; incomplete batches are
    left out. The shorter set is passed through as often as that takes, each pass in a new order, so that a few labels
    last for an epoch of any length.

    Args:
        labeled: (N,) bool, which samples have a label.
        batch_size: Labeled samples in a batch of one rank.
        ratio: Unlabeled samples for each labeled one, at least 1.
        classes: (N,) int64, the class of each sample, by which `balance` draws; -1 for none.
        balance: How far labeled samples are drawn equally often from all classes, see `BalancedSampler`.
        seed: Seed of the order; `None` takes the one that `lightning.seed_everything` was given, otherwise 0.
        num_replicas: Number of ranks.
        rank: This rank, from 0.

    Raises:
        ValueError: If there are no labeled or no unlabeled samples.

    Example:
        >>> import torch
        >>> sampler = MixedSampler(torch.arange(6) < 2, batch_size=1, ratio=2, seed=0)
        >>> order = list(sampler)
        >>> len(order), [position < 2 for position in order], sorted(order[1:3] + order[4:])
        (6, [True, False, False, True, False, False], [2, 3, 4, 5])
    """

    def __init__(
        self,
        labeled: Tensor,
        batch_size: int,
        ratio: int,
        classes: Tensor | None = None,
        balance: float = 0.0,
        seed: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(len(labeled), True, seed, num_replicas, rank, drop_last=True)
        self.labeled, self.unlabeled = np.flatnonzero(labeled), np.flatnonzero(~labeled)
        if not len(self.labeled) or not len(self.unlabeled):
            raise ValueError(
                f"there are {len(self.labeled)} labeled and {len(self.unlabeled)} unlabeled images: both are needed."
            )
        self.classes = None if classes is None else classes.numpy()[self.labeled]
        self.balance = balance
        self.batch_size, self.ratio = batch_size, ratio
        longest = max(len(self.unlabeled) // ratio, len(self.labeled))
        self.batches = max(1, longest // (batch_size * num_replicas))

    def __len__(self) -> int:
        return self.batches * self.batch_size * (1 + self.ratio)

    def order(self) -> NDArray[np.int64]:
        """Return this rank's positions of the epoch, batch after batch, the skipped ones included."""
        count = self.batches * self.batch_size * self.num_replicas
        if self.balance and self.classes is not None:
            labeled = balanced_positions(self.classes, self.balance, count, self._random(0))
        else:
            labeled = repeated_permutations(len(self.labeled), count, self._random(0))
        unlabeled = repeated_permutations(len(self.unlabeled), count * self.ratio, self._random(1))
        parts = [
            positions[drawn].reshape(self.batches, self.num_replicas, -1)[:, self.rank]
            for positions, drawn in ((self.labeled, labeled), (self.unlabeled, unlabeled))
        ]
        return np.concatenate(parts, axis=1).reshape(-1)

    def _random(self, part: int) -> np.random.RandomState:
        words = [self.seed, self.epoch, self.cycle, part]
        return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words)))
