"""Checks that episodes can be drawn from the available classes."""

from collections.abc import Sequence

import numpy as np

from datamodules.class_pool import ClassPool
from lit_cv.errors import VoidOptionError, argument
from lit_cv.printable import printable

__all__ = ["EpisodeSize", "check_episodes"]

EpisodeSize = tuple[int, int, str]
"""Classes per episode, support images per class, and the argument that sets them."""


def check_episodes(
    split: str, pool: ClassPool, query_pool: ClassPool | None, sizes: Sequence[EpisodeSize], queries: int
) -> None:
    """Raise if episodes cannot be drawn from the classes of a split.

    Args:
        split: The split.
        pool: Its support images.
        query_pool: Its query images, `None` if they are the same.
        sizes: Sizes of the episodes.
        queries: Query images per class.

    Raises:
        ValueError: If there are fewer classes than an episode needs, or a class has too few images.
    """
    class_count = len(pool.names)
    for way, shot, name in sizes:
        if class_count < way:
            text = (
                f"an episode of {way} classes ({argument(name)}) cannot be drawn from the {class_count} classes of "
                f"{split}: reduce it, or change {argument('val_classes')} and {argument('test_classes')}."
            )
            if split == "train":
                raise ValueError(text)
            reason = f"an episode of {way} classes cannot be drawn from the {class_count} of {split}"
            raise VoidOptionError(None, f"{split}_classes", ..., reason, text=text)
        _check_counts(pool, shot + (0 if query_pool else queries), split)
        if query_pool:
            _check_counts(query_pool, queries, split)


def _check_counts(pool: ClassPool, needed: int, split: str) -> None:
    small = np.flatnonzero(pool.counts < needed)
    if len(small):
        shown = printable(", ".join([f"{pool.names[c]} ({pool.counts[c]})" for c in small[:5]]), lines=False)
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise ValueError(
            f"an episode needs {needed} images per class for support and query, but these {split} classes have fewer: "
            f"{shown}{more}. Reduce {argument('query')} ({argument('eval_query')}) or {argument('shot')} (the shots in "
            f"{argument('evaluate')})."
        )
