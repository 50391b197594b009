"""Loaders whose order is a function of (seed, epoch) and that continue in the middle of an epoch."""

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
from lit_cv.errors import FIT, TRAINER, argument, setting

__all__ = ["Batch", "EpochSampler", "ResumableLoader", "collate", "loader_options"]

Batch = dict[str, Any]

_MOST_WORKERS = 8
_LISTS = ("boxes", "box_labels", "iscrowd")  # a different number in every image: kept as lists


class EpochSampler(DistributedSampler[Any]):
    """Deals the samples of an epoch out to the processes, in an order that depends on nothing but its arguments.

    The order is that of numpy's frozen legacy generator, hence the same on every machine. It is a
    `DistributedSampler` so that Lightning leaves it alone when it trains on several processes.

    Args:
        size: Number of samples in the dataset.
        shuffle: `True` for training: a new order every epoch, and as many samples for each process (some samples
            twice, or left out with `drop_last`). `False` for evaluation: in order, every sample exactly once, so
            that some processes get one less.
        seed: Seed of the order; `None` takes the one that `lightning.seed_everything` was given, otherwise 0.
        num_replicas: Number of processes.
        rank: This process, from 0.
        drop_last: Whether samples that cannot be dealt out evenly are left out rather than used twice.

    Attributes:
        offset: Samples of this process that the next iteration skips.
        cycle: Which pass through the data within the same epoch, from 0; each has its own order.
        balance: How far classes are drawn equally often, see `BalancedSampler`.

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
        """Return the positions of this process's samples in the epoch, the skipped ones included."""
        if not self.shuffle:
            return np.arange(self.rank, self.size, self.num_replicas)
        bits = np.random.MT19937(np.random.SeedSequence([self.seed, self.epoch, self.cycle]))
        order = self.permutation(np.random.RandomState(bits))
        dealt = len(self) * self.num_replicas
        return np.asarray(np.resize(order, dealt)[self.rank :: self.num_replicas], dtype=np.int64)

    def permutation(self, random: np.random.RandomState) -> NDArray[np.int64]:
        """Return the positions of an epoch's samples in a random order, before they are dealt out."""
        return random.permutation(self.size)


class _InOrder(SequentialSampler):
    """The samples in order, in an epoch that Lightning sets."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Note which epoch begins."""
        self.epoch = epoch


def collate(samples: Any) -> Batch:
    """Make a batch of a list of samples; what a dataset has fetched as a whole stays as it is.

    Args:
        samples: A batch, or samples that are dicts of tensors and numbers; what there are different numbers of
            (`boxes`, `box_labels`, `iscrowd`) becomes lists.
    """
    if isinstance(samples, dict):
        return samples
    batch: Batch = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if name in _LISTS:
            batch[name] = values
        else:
            batch[name] = torch.stack(values) if isinstance(first, torch.Tensor) else torch.as_tensor(values)
    return batch


def loader_options(num_workers: int | None, in_memory: bool, processes: int) -> dict[str, Any]:
    """Return the arguments of a loader that depend on the machine.

    Args:
        num_workers: Number of worker processes; `None` chooses.
        in_memory: Whether reading is so cheap that workers cost more than they give.
        processes: Processes that train on this machine, and share its cores.
    """
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = 0 if in_memory else min(max(1, cores // processes), _MOST_WORKERS)
    return {
        "num_workers": num_workers,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": num_workers > 0,
    }


class ResumableLoader(DataLoader[Any]):
    """A DataLoader whose `state_dict` Lightning keeps in checkpoints, so that a resumed epoch goes on exactly.

    Batches count when they are handed out, not when a worker has prefetched them; the number of workers may
    change between runs. After `load_state_dict` the next iteration starts at the following batch without reading
    the ones before; `len` stays that of the whole epoch. Iterating again within an epoch gives a new order.

    Args:
        dataset: Dataset of dicts, fetched a batch at a time where it has `__getitems__`.
        batch_size: Samples in a batch.
        shuffle: Whether this is for training, see `EpochSampler`.
        sampler: Takes the place of the `EpochSampler` made from the other arguments.
        drop_last: Whether an incomplete last batch is left out.
        seed: Seed of the order, see `EpochSampler`.
        num_replicas: Number of processes.
        rank: This process, from 0.
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
        if type(sampler) is SequentialSampler:  # Lightning's for overfit_batches
            sampler = _InOrder(dataset)  # type: ignore[arg-type]
        kwargs.setdefault("collate_fn", collate)
        super().__init__(dataset, batch_size, sampler=sampler, drop_last=drop_last, **kwargs)
        self._epoch = self._cycle = self._handed_out = 0
        self._restored = False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator, so that the epoch is read at the first batch: Lightning calls `iter` before `set_epoch`.
        self._begin()
        try:
            # Samplers of Lightning's cannot begin later: what was handed out before is read again, and left out.
            read_again = 0 if isinstance(self.sampler, EpochSampler) else self._handed_out
            for batch in islice(self._start(), read_again, None):
                self._handed_out += 1
                yield batch
        except UnreadableImageError as error:  # from a worker process its message is a whole trace
            reason = str(error).rpartition("UnreadableImageError: ")[2].strip()
            raise UnreadableImageError(f"{reason} ({setting('on_error', 'skip')} leaves such files out)") from None
        except FileNotFoundError as error:
            reason = str(error).rpartition("FileNotFoundError: ")[2].strip()
            raise FileNotFoundError(
                f"an image is gone that was there when the run began: {reason}. Put it back, and go on with "
                f"{setting('ckpt_path', 'last', FIT)}; {setting('cache', True)} reads files once, before the run."
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
        finished = self._handed_out >= len(self)
        if epoch is not None and not same_epoch:
            self._epoch, self._cycle = epoch, 0
        elif finished:
            self._cycle += 1
        if not (self._restored and same_epoch and not finished):
            self._handed_out = 0
        self._restored = False
        if isinstance(sampler, EpochSampler):
            sampler.cycle = self._cycle
            sampler.offset = self._handed_out * (self.batch_size or 0)

    def state_dict(self) -> dict[str, int | float]:
        """Return where the iteration stands, as plain numbers."""
        sampler = self.sampler
        return {
            "seed": int(getattr(sampler, "seed", 0)),
            "epoch": self._epoch,
            "cycle": self._cycle,
            "batches": self._handed_out,
            "batch_size": self.batch_size or 0,
            "world_size": int(getattr(sampler, "num_replicas", 1)),
            "samples": len(self.dataset),  # type: ignore[arg-type]
            **({"balance": balance} if (balance := self._balance) else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: If the epoch is under way, and the batch size, the number of processes, the balance of the
                classes or the length of the dataset is another one.
        """
        now = self.state_dict()
        for name, changed in (("batch_size", argument("batch_size")), ("world_size", argument("devices", TRAINER))):
            if state["batches"] > 0 and state[name] != now[name]:
                raise ValueError(
                    f"the checkpoint was written with {name}={state[name]}, this run has {name}={now[name]}: "
                    f"an exact resume needs the same; set {changed}."
                )
        if 0 < state["batches"] < len(self) and state.get("balance", 0.0) != self._balance:
            raise ValueError(
                f"the checkpoint was written with balance={state.get('balance', 0.0)}, in the middle of an epoch; this "
                f"run has balance={self._balance}: an exact resume needs the same; set {argument('balance')}."
            )
        if 0 < state["batches"] < len(self) and state["samples"] != now["samples"]:
            raise ValueError(
                f"the checkpoint was written in the middle of an epoch over {state['samples']} samples, "
                f"this run has {now['samples']}: resume on the data of the checkpoint."
            )
        self._epoch, self._cycle, self._handed_out = state["epoch"], state["cycle"], state["batches"]
        self._restored = True
        if isinstance(self.sampler, EpochSampler):
            self.sampler.seed = state["seed"]
            self.sampler.set_epoch(state["epoch"])
