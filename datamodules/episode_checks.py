"""Whether episodes can be drawn from the classes that there are."""

from collections.abc import Sequence

import numpy as np

from datamodules.class_pool import ClassPool
from lit_cv.errors import VoidOptionError, argument
from lit_cv.printable import printable

__all__ = ["Drawn", "check_drawn"]

Drawn = tuple[int, int, str]
"""Classes and support images of each in an episode, and the argument that says so."""


def check_drawn(
    split: str, pool: ClassPool, query_pool: ClassPool | None, drawn: Sequence[Drawn], queries: int
) -> None:
    """Refuse classes that no episode can be drawn from.

    Args:
        split: The split.
        pool: Its support images.
        query_pool: Its query images, `None` where they are the same.
        drawn: What episodes hold.
        queries: Query images of each class.

    Raises:
        ValueError: If there are fewer classes than an episode has, or a class has too few images.
    """
    kinds = len(pool.names)
    for way, shot, name in drawn:
        if kinds < way:
            text = (
                f"an episode of {way} classes ({argument(name)}) cannot be drawn from the {kinds} classes of "
                f"{split}: lower it, or change {argument('val_classes')} and {argument('test_classes')}."
            )
            if split == "train":
                raise ValueError(text)
            reason = f"an episode of {way} classes cannot be drawn from the {kinds} of {split}"
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
            f"an episode takes {needed} images of a class for support and query, but of {split} these have fewer: "
            f"{shown}{more}. Lower {argument('query')} ({argument('eval_query')}) or {argument('shot')} (the shots of "
            f"{argument('evaluate')})."
        )
