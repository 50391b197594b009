"""Randomness as a function of (seed, epoch, batch, rank), so that an interrupted run resumes exactly."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["fixed_seed", "global_seed", "seed_step"]


def global_seed() -> int:
    """Return the seed that `lightning.seed_everything` was called with, otherwise 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def seed_step(seed: int, epoch: int, batch: int, rank: int, device: torch.device) -> None:
    """Seed every generator that a training step may draw from.

    Dropout, augmentation and mixing of a step then depend only on these four numbers, not on earlier steps or restarts
    of the process. The torch generators of the CPU and the device, `random` and `numpy.random` are all seeded from
    them.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        batch: Batch within the epoch, from 0.
        rank: Rank of the process, from 0.
        device: Device that the step runs on.

    Example:
        >>> cpu = torch.device("cpu")
        >>> seed_step(1, 0, 5, 0, cpu); a = torch.rand(3)
        >>> seed_step(1, 0, 5, 0, cpu); b = torch.rand(3)
        >>> seed_step(1, 0, 6, 0, cpu); c = torch.rand(3)
        >>> torch.equal(a, b), torch.equal(a, c)
        (True, False)
    """
    words = np.random.SeedSequence([seed, epoch, batch, rank]).generate_state(2)
    mixed = int(words[0]) << 31 | int(words[1]) >> 1  # 63 bits: torch takes a signed 64-bit seed
    # Not torch.manual_seed: without a GPU, every call records a stack trace for a later initialization of CUDA.
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(int(words[0]))  # users' code draws from the legacy generator


@contextmanager
def fixed_seed(*numbers: int) -> Iterator[None]:
    """Seed torch's CPU generator from some numbers inside the context, and restore its state afterwards.

    Draws inside are the same every time, regardless of the run's seed, and do not affect draws outside.

    Args:
        numbers: Non-negative integers.

    Example:
        >>> with fixed_seed(3): a = torch.rand(2)
        >>> with fixed_seed(3): b = torch.rand(2)
        >>> torch.equal(a, b)
        True
    """
    words = np.random.SeedSequence(numbers).generate_state(2)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        yield
