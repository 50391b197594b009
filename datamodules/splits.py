"""Stratified random choices that are the same on every machine."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Positions", "classes_with_fewer", "hold_out", "keep_labels", "shares"]

Positions = NDArray[np.int64]


def _random(seed: int, purpose: int) -> np.random.RandomState:
    # The legacy generator is frozen across numpy versions; `purpose` makes choices independent.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, purpose])))


def _strata(labels: Tensor) -> NDArray[np.int64]:
    """Return the stratum of each sample: its class, or 0 for multi-label data; -1 if unlabeled."""
    if labels.ndim == 1:
        return np.asarray(labels.numpy(), dtype=np.int64)
    return np.where(labels.numpy().min(1) < 0, -1, 0).astype(np.int64)


def _members(strata: NDArray[np.int64]) -> list[Positions]:
    """Return the ascending positions in each stratum from 0 on, in one pass, as there may be 100,000 strata."""
    order = np.argsort(strata, kind="stable")
    order = order[strata[order] >= 0]
    return np.split(order, np.flatnonzero(np.diff(strata[order])) + 1) if len(order) else []


def shares(sizes: NDArray[Any], total: int) -> NDArray[np.int64]:
    """Divide a number among strata in proportion to their sizes, by the largest remainder method.

    Args:
        sizes: (K,) non-negative numbers.
        total: Number to divide.

    Example:
        >>> shares(np.array([3, 3, 1]), 10).tolist()
        [4, 4, 2]
    """
    exact = sizes * (total / (sizes.sum() or 1))
    counts: NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts


def _choose(
    labels: Tensor, total: int, random: np.random.RandomState, at_least_one: bool, leave_one: bool
) -> Positions:
    strata = _strata(labels)
    sizes = np.unique(strata[strata >= 0], return_counts=True)[1]
    targets = shares(sizes, total)
    if at_least_one:
        targets = np.maximum(targets, 1)
    if leave_one:
        targets = np.minimum(targets, sizes - 1)
    members = _members(strata)
    chosen = [random.permutation(positions)[:count] for positions, count in zip(members, targets, strict=True)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))


def hold_out(labels: Tensor, fraction: float, seed: int, purpose: int = 0) -> tuple[Positions, Positions]:
    """Split the samples in two, stratified by class; unlabeled ones are kept.

    Args:
        labels: (N,) int64, -1 where unlabeled; or (N, K), which are not stratified.
        fraction: Share of the labeled samples to hold out, in [0, 1). Each class keeps at least one sample.
        seed: Seed of the choice.
        purpose: Number that makes choices with the same seed independent.

    Returns:
        Positions of the kept samples and of those held out, both ascending.

    Example:
        >>> import torch
        >>> kept, held = hold_out(torch.tensor([0] * 10 + [1] * 20), 0.2, seed=0)
        >>> len(kept), len(held), int((held < 10).sum())
        (24, 6, 2)
    """
    labeled = int((_strata(labels) >= 0).sum())
    total = round(labeled * fraction)
    held = _choose(labels, total, _random(seed, purpose), at_least_one=False, leave_one=True)
    kept = np.setdiff1d(np.arange(len(labels)), held, assume_unique=True)
    return kept, held


def classes_with_fewer(labels: Tensor, per_class: int) -> tuple[int, int]:
    """Return the number of classes with fewer labels than `per_class`, and the smallest of their label counts.

    Example:
        >>> import torch
        >>> classes_with_fewer(torch.tensor([0] * 10 + [1] * 20), 15)
        (1, 10)
    """
    counts = [len(positions) for positions in _members(_strata(labels))]
    fewer = [count for count in counts if count < per_class]
    return len(fewer), min(fewer, default=0)


def keep_labels(labels: Tensor, per_class: int | None, fraction: float | None, seed: int) -> Positions:
    """Return the ascending positions of a stratified choice of labeled samples, at least one per class.

    Args:
        labels: (N,) int64, -1 where unlabeled; or (N, K), which allow only `fraction`.
        per_class: Labels to keep per class; all if a class has fewer.
        fraction: Share of the labels to keep, in (0, 1].
        seed: Seed of the choice.

    Raises:
        ValueError: If `per_class` is given for multi-label data.
    """
    strata = _strata(labels)
    if per_class is None and fraction is None:
        return np.flatnonzero(strata >= 0)
    random = _random(seed, 1)
    if per_class is not None:
        if labels.ndim == 2:
            raise ValueError("labels_per_class needs one label per image: use label_fraction for several labels.")
        chosen = [random.permutation(positions)[:per_class] for positions in _members(strata)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))
    total = round(int((strata >= 0).sum()) * (fraction or 0))
    return _choose(labels, total, random, at_least_one=True, leave_one=False)
