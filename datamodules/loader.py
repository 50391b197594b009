"""Loaders with an order that is a function of (seed, epoch), which can resume in the middle of an epoch."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, SequentialSampler

from datamodules.images import UnreadableImageError
from datamodules.worker_signals import OutliveSignals, signals_held_back
from lit_cv.contracts import Batch
from lit_cv.errors import FIT, TRAINER, argument, setting

__all__ = ["EpochSampler", "ResumableLoader", "collate", "loader_options", "repeated_permutations"]

_MAX_WORKERS = 8
_LIST_ENTRIES = ("boxes", "box_labels", "iscrowd", "masks")  # kept as lists, as their lengths differ between images


class EpochSampler(DistributedSampler[Any]):
    """Distributes the samples of an epoch over the ranks, in an order that depends only on the arguments.

    The order comes from numpy's frozen legacy generator, so it is the same on every machine. It is a
    `DistributedSampler` so that Lightning does not replace it in distributed training.

    Args:
        size: Number of samples in the dataset.
        shuffle: `True` for training: a new order every epoch, and the same number of samples for each rank (some are
            repeated, or dropped with `drop_last`). `False` for evaluation: in order, every sample exactly once, so that
            some ranks get one less.
        seed: Seed of the order; `None` uses the seed of `lightning.seed_everything`, else 0.
        num_replicas: Number of ranks.
        rank: Rank of this process.
        drop_last: Whether samples that do not divide evenly are dropped instead of repeated.

    Attributes:
        offset: Samples of this rank that the next iteration skips.
        cycle: Number of the pass over the data within an epoch, from 0; each pass has a different order.
        balance: Strength of class balancing, see `BalancedSampler`.

    Example:
        >>> sampler = EpochSampler(6, shuffle=True, seed=1)
        >>> first = list(sampler)
        >>> sampler.set_epoch(1)
        >>> list(sampler) == first, sorted(sampler) == sorted(first)
        (False, True)
        >>> [list(EpochSampler(5, shuffle=False, num_replicas=2, rank=rank)) for rank in (0, 1)]
        [[0, 2, 4], [1, 3]]
    """

    balance = 0.0

    def __init__(
        self,
        size: int,
        shuffle: bool,
        seed: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        drop_last: bool = False,
    ) -> None:
        if seed is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        super().__init__(range(size), num_replicas, rank, shuffle, seed, drop_last)  # type: ignore[arg-type]
        self.size = size
        self.offset = 0
        self.cycle = 0

    def __len__(self) -> int:
        if not self.shuffle:
            return len(range(self.rank, self.size, self.num_replicas))
        return self.size // self.num_replicas if self.drop_last else -(-self.size // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order()[self.offset :].tolist())

    def order(self) -> NDArray[np.int64]:
        """Return the positions of this rank's samples in the epoch, including skipped ones."""
        if not self.shuffle:
            return np.arange(self.rank, self.size, self.num_replicas)
        bits = np.random.MT19937(np.random.SeedSequence([self.seed, self.epoch, self.cycle]))
        order = self.permutation(np.random.RandomState(bits))
        total = len(self) * self.num_replicas
        return np.asarray(np.resize(order, total)[self.rank :: self.num_replicas], dtype=np.int64)

    def permutation(self, random: np.random.RandomState) -> NDArray[np.int64]:
        """Return the positions of all samples of an epoch in random order."""
        return random.permutation(self.size)


def repeated_permutations(size: int, count: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Return `count` positions of `size` samples: passes through all of them, each in a new order.

    Example:
        >>> drawn = repeated_permutations(3, 7, np.random.RandomState(0))
        >>> sorted(drawn[:3].tolist()), sorted(drawn[3:6].tolist()), len(drawn)
        ([0, 1, 2], [0, 1, 2], 7)
    """
    passes = [random.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(passes)[:count].astype(np.int64)


class _InOrder(SequentialSampler):
    """A sequential sampler that stores the epoch set by Lightning."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch."""
        self.epoch = epoch


def collate(samples: Any) -> Batch:
    """Combine a list of samples into a batch; a batch that the dataset fetched is returned unchanged.

    Args:
        samples: A batch, or samples that are dicts of tensors and numbers; entries of varying length (`boxes`,
            `box_labels`, `iscrowd`, `masks`) become lists.
    """
    if isinstance(samples, dict):
        return samples
    batch: Batch = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if name in _LIST_ENTRIES:
            batch[name] = values
        else:
            batch[name] = torch.stack(values) if isinstance(first, torch.Tensor) else torch.as_tensor(values)
    return batch


def loader_options(num_workers: int | None, in_memory: bool, processes: int) -> dict[str, Any]:
    """Return the loader arguments that depend on the machine.

    Args:
        num_workers: Number of worker processes; `None` chooses it.
        in_memory: Whether reading is so cheap that workers would only add overhead.
        processes: Number of ranks that share the cores of this machine.
    """
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = 0 if in_memory else min(max(1, cores // processes), _MAX_WORKERS)
    return {
        "num_workers": num_workers,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": num_workers > 0,
    }


class ResumableLoader(DataLoader[Any]):
    """A DataLoader with a `state_dict` that Lightning stores in checkpoints, so that epochs resume exactly.

    Batches are counted when they are yielded, not when a worker has prefetched them; the number of workers may change
    between runs. After `load_state_dict`, the next iteration starts at the following batch without reading the
    previous ones; `len` remains that of the full epoch. Iterating again within an epoch uses a new order.

    Args:
        dataset: Dataset of dicts, fetched one batch at a time if it has `__getitems__`.
        batch_size: Samples in a batch.
        shuffle: Whether this is for training, see `EpochSampler`.
        sampler: Sampler to use instead of an `EpochSampler` with the other arguments.
        drop_last: Whether an incomplete last batch is dropped.
        seed: Seed of the order, see `EpochSampler`.
        num_replicas: Number of ranks.
        rank: Rank of this process.
        **kwargs: Further arguments of `torch.utils.data.DataLoader`.

    Example:
        >>> from datamodules import InMemoryDataset
        >>> dataset = InMemoryDataset(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10))
        >>> loader = ResumableLoader(dataset, batch_size=4, shuffle=True)
        >>> batches = iter(loader)
        >>> _, state, rest = next(batches), loader.state_dict(), [batch["index"].tolist() for batch in batches]
        >>> resumed = ResumableLoader(dataset, batch_size=4, shuffle=True)
        >>> resumed.load_state_dict(state)
        >>> [batch["index"].tolist() for batch in resumed] == rest
        True
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = 1,
        shuffle: bool = False,
        sampler: Sampler[Any] | None = None,
        drop_last: bool = False,
        seed: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        **kwargs: Any,
    ) -> None:
        if sampler is None and kwargs.get("batch_sampler") is None:
            size = len(dataset)  # type: ignore[arg-type]
            sampler = EpochSampler(size, shuffle, seed, num_replicas, rank, drop_last)
        if type(sampler) is SequentialSampler:  # set by Lightning for overfit_batches
            sampler = _InOrder(dataset)  # type: ignore[arg-type]
        kwargs.setdefault("collate_fn", collate)
        super().__init__(dataset, batch_size, sampler=sampler, drop_last=drop_last, **kwargs)
        self._epoch = self._cycle = self._yielded = 0
        self._restored = False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator reads the epoch at the first batch, as Lightning calls `iter` before `set_epoch`.
        self._begin()
        try:
            # Lightning's samplers cannot start later: earlier batches are read again and skipped.
            skipped = 0 if isinstance(self.sampler, EpochSampler) else self._yielded
            for batch in islice(self._start(), skipped, None):
                self._yielded += 1
                yield batch
        except UnreadableImageError as error:  # from a worker process, its message is a traceback
            reason = str(error).rpartition("UnreadableImageError: ")[2].strip()
            raise UnreadableImageError(f"{reason} ({setting('on_error', 'skip')} skips such files)") from None
        except FileNotFoundError as error:
            reason = str(error).rpartition("FileNotFoundError: ")[2].strip()
            raise FileNotFoundError(
                f"an image file disappeared during the run: {reason}. Restore it and resume with "
                f"{setting('ckpt_path', 'last', FIT)}; {setting('cache', True)} reads all files once before the run."
            ) from None

    @property
    def _balance(self) -> float:
        return float(getattr(self.sampler, "balance", 0.0))

    def _start(self) -> Iterator[Batch]:
        if self.num_workers == 0:
            return super().__iter__()
        if not isinstance(self.worker_init_fn, OutliveSignals):
            self.worker_init_fn = OutliveSignals(self.worker_init_fn)
        with signals_held_back():
            return super().__iter__()

    def _begin(self) -> None:
        sampler = self.sampler
        epoch = getattr(sampler, "epoch", None)
        same_epoch = epoch is not None and epoch == self._epoch
        finished = self._yielded >= len(self)
        if epoch is not None and not same_epoch:
            self._epoch, self._cycle = epoch, 0
        elif finished:
            self._cycle += 1
        if not (self._restored and same_epoch and not finished):
            self._yielded = 0
        self._restored = False
        if isinstance(sampler, EpochSampler):
            sampler.cycle = self._cycle
            sampler.offset = self._yielded * (self.batch_size or 0)

    def state_dict(self) -> dict[str, int | float]:
        """Return the state of the iteration as plain numbers."""
        sampler = self.sampler
        return {
            "seed": int(getattr(sampler, "seed", 0)),
            "epoch": self._epoch,
            "cycle": self._cycle,
            "batches": self._yielded,
            "batch_size": self.batch_size or 0,
            "world_size": int(getattr(sampler, "num_replicas", 1)),
            "samples": len(self.dataset),  # type: ignore[arg-type]
            **({"balance": balance} if (balance := self._balance) else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of `state_dict`.

        Raises:
            ValueError: If the epoch has begun and the batch size, the number of ranks, the class balance or the
                length of the dataset differs.
        """
        current = self.state_dict()
        for name, option in (("batch_size", argument("batch_size")), ("world_size", argument("devices", TRAINER))):
            if state["batches"] > 0 and state[name] != current[name]:
                raise ValueError(
                    f"the checkpoint has {name}={state[name]}, but this run has {name}={current[name]}: "
                    f"exact resume needs the same value. Change {option}."
                )
        if 0 < state["batches"] < len(self) and state.get("balance", 0.0) != self._balance:
            raise ValueError(
                f"the checkpoint is from the middle of an epoch with balance={state.get('balance', 0.0)}, but this run "
                f"has balance={self._balance}: exact resume needs the same value. Change {argument('balance')}."
            )
        if 0 < state["batches"] < len(self) and state["samples"] != current["samples"]:
            raise ValueError(
                f"the checkpoint is from the middle of an epoch over {state['samples']} samples, "
                f"but this run has {current['samples']}: resume with the data of the checkpoint."
            )
        self._epoch, self._cycle, self._yielded = state["epoch"], state["cycle"], state["batches"]
        self._restored = True
        if isinstance(self.sampler, EpochSampler):
            self.sampler.seed = state["seed"]
            self.sampler.set_epoch(state["epoch"])
