"""Episodes for few-shot learning, each a function of one number, drawn from images in memory."""

import re
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.class_pool import ClassPool
from datamodules.loader import EpochSampler
from lit_cv.contracts import Batch
from lit_cv.errors import OptionError

__all__ = ["EpisodeDataset", "EpisodeSampler", "EvaluationEpisodes", "Setting", "episode_numbers"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Rows = NDArray[np.int64]


class Setting(NamedTuple):
    """Number of classes of an episode, and of support images per class.

    Example:
        >>> Setting.parse("20w5s"), Setting(5, 1).name
        (Setting(way=20, shot=5), '5w1s')
    """

    way: int
    shot: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a setting from its name.

        Raises:
            ValueError: If it does not have the form `5w1s`, with at least two classes and one image.
        """
        match = re.fullmatch(r"(\d+)w(\d+)s", text)
        if not match or int(match[1]) < 2 or int(match[2]) < 1:
            raise OptionError(
                None,
                "evaluate",
                text,
                "must be settings such as [5w1s, 20w5s]; 5w1s means 5 classes (at least 2) with 1 support image each",
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        """Name of the setting in metrics."""
        return f"{self.way}w{self.shot}s"


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit numbers: the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def episode_numbers(key: Sequence[int], positions: Rows) -> Rows:
    """Return the random numbers of episodes, 63 bits each.

    Args:
        key: Numbers that identify a sequence of episodes.
        positions: Positions in the sequence.
    """
    start = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)
    mixed = _mix(start + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (mixed >> np.uint64(1)).astype(np.int64)


class EpisodeSampler(EpochSampler):
    """Samples the numbers of training episodes as a function of (seed, epoch, step, rank).

    Args:
        size: Episodes per epoch over all ranks.
        seed: Seed of the run, see `EpochSampler`.
        num_replicas: Number of ranks.
        rank: Rank of this process.

    Example:
        >>> ranks = [EpisodeSampler(4, seed=1, num_replicas=2, rank=rank) for rank in (0, 1)]
        >>> [len(sampler) for sampler in ranks], set(ranks[0]) & set(ranks[1])
        ([2, 2], set())
    """

    def __init__(self, size: int, seed: int | None = None, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(size, True, seed, num_replicas, rank, drop_last=True)

    def order(self) -> Rows:
        """Return the numbers of this rank's episodes in the epoch, including skipped ones."""
        positions = np.arange(self.rank, len(self) * self.num_replicas, self.num_replicas)
        return episode_numbers([self.seed, self.epoch, self.cycle], positions)


class EpisodeDataset(Dataset[Batch]):
    """Episodes of N classes with K support and Q query images each.

    A batch of B episodes has `support` and `query`, each with `image` (B, N K or N Q, C, H, W) uint8, `label`
    (B, N K or N Q) from 0 to N - 1, sorted by class, and `index`, the rows of the images in their pool; and `classes`
    (B, N), the classes in the pool. Each image occurs at most once in an episode.

    Args:
        support: Classes that support images are drawn from.
        query: The same classes with other images for the queries; `None` uses those of `support`.
        way: Classes per episode, N.
        shot: Support images per class, K.
        queries: Query images per class, Q.
        reads_images: Whether batches have `image`.
        size: Length of the dataset, which does not affect the episodes.
    """

    def __init__(
        self,
        support: ClassPool,
        query: ClassPool | None,
        way: int,
        shot: int,
        queries: int,
        reads_images: bool = True,
        size: int = 1,
    ) -> None:
        self.support, self.query = support, query
        self.way, self.shot, self.queries = way, shot, queries
        self.reads_images = reads_images
        self.size = size
        images_per_class = {"support": shot, "query": queries}
        self._labels = {name: np.repeat(np.arange(way), count)[None] for name, count in images_per_class.items()}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> Batch:
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """Return the batch of the episodes with these numbers."""
        classes, support, query = self._draw(np.asarray(numbers, dtype=np.uint64))
        batch: Batch = {"classes": torch.from_numpy(classes)}
        for name, rows in (("support", support), ("query", query)):
            label = np.repeat(self._labels[name], len(numbers), axis=0)
            rows = rows.reshape(len(numbers), -1)
            batch[name] = {"label": torch.from_numpy(label), "index": torch.from_numpy(rows)}
        if self.reads_images:
            self._read(batch)
        return batch

    def _draw(self, numbers: NDArray[np.uint64]) -> tuple[Rows, Rows, Rows]:
        """Return the classes (B, N), the rows of the support (B, N, K) and of the query images (B, N, Q)."""
        class_count = len(self.support.names)
        classes = _choose(_draws(numbers, 0, class_count), self.way)
        if self.query is None:
            rows = _choose_rows(numbers, class_count, self.support, classes, self.shot + self.queries)
            return classes, rows[..., : self.shot], rows[..., self.shot :]
        support = _choose_rows(numbers, class_count, self.support, classes, self.shot)
        query_start = class_count + self.way * int(self.support.counts.max())
        return classes, support, _choose_rows(numbers, query_start, self.query, classes, self.queries)

    def _read(self, batch: Batch) -> None:
        """Add the images, fetched at once if support and query come from one pool."""
        support, query = (batch[part]["index"].numpy().reshape(-1) for part in ("support", "query"))
        if self.query is None:
            images = self.support.take(np.concatenate([support, query]))
        else:
            images = torch.cat([self.support.take(support), self.query.take(query)])
        for part, selected in (("support", images[: len(support)]), ("query", images[len(support) :])):
            batch[part]["image"] = selected.view(*batch[part]["index"].shape, *images.shape[1:])


class EvaluationEpisodes(Dataset[Batch]):
    """Fixed evaluation episodes in several settings, grouped into batches of one setting each.

    Args:
        support: Classes that support images are drawn from.
        query: The same classes with other images for the queries; `None` uses those of `support`.
        settings: The settings.
        queries: Query images per class.
        episodes: Number of episodes per setting.
        batch_size: Maximum number of episodes in a batch.
        key: Number that identifies this sequence of episodes.
        reads_images: Whether batches have `image`.
    """

    def __init__(
        self,
        support: ClassPool,
        query: ClassPool | None,
        settings: Sequence[Setting],
        queries: int,
        episodes: int,
        batch_size: int,
        key: int,
        reads_images: bool = True,
    ) -> None:
        self._batches: list[tuple[EpisodeDataset, list[int]]] = []
        for setting in settings:
            data = EpisodeDataset(support, query, setting.way, setting.shot, queries, reads_images=reads_images)
            numbers = episode_numbers([key, setting.way, setting.shot], np.arange(episodes)).tolist()
            starts = range(0, episodes, batch_size)
            self._batches += [(data, numbers[start : start + batch_size]) for start in starts]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, position: int) -> Batch:
        data, numbers = self._batches[position]
        return data.__getitems__(numbers)


def _draws(numbers: NDArray[np.uint64], start: int, count: int) -> NDArray[np.uint64]:
    """Return random numbers (B, count) that depend only on the episode's number and their position."""
    positions = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    return _mix(numbers[:, None] + positions * _GOLDEN)


def _choose(draws: NDArray[np.uint64], k: int) -> Rows:
    """Return the positions of the k smallest draws of each row in ascending order of the draws: a random choice."""
    size = draws.shape[-1]
    bits = np.uint64(size.bit_length())
    keys = draws >> bits << bits | np.arange(size, dtype=np.uint64)  # sorting the keys also sorts the positions
    if 4 * k < size:
        keys = np.partition(keys, k - 1, axis=-1)[..., :k]
    chosen = np.sort(keys, axis=-1)[..., :k] & ((np.uint64(1) << bits) - np.uint64(1))
    return chosen.astype(np.int64)


def _choose_rows(numbers: NDArray[np.uint64], start: int, pool: ClassPool, classes: Rows, k: int) -> Rows:
    """Return k distinct rows of each of these classes, (B, N, k), in random order."""
    largest = int(pool.counts.max())
    draws = _draws(numbers, start, classes.shape[1] * largest).reshape(*classes.shape, largest)
    if largest > pool.counts.min():
        draws[np.arange(largest) >= pool.counts[classes][..., None]] = np.iinfo(np.uint64).max
    return pool.first[classes][..., None] + _choose(draws, k)
