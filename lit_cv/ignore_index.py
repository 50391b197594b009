"""Target values that mean an unknown class."""

from torch import Tensor

__all__ = ["IGNORE_INDEX", "UNLABELED", "unlabeled_rows"]

IGNORE_INDEX = 255
"""Mask value of a pixel without a class."""

UNLABELED = -1
"""Label of an image without a class."""


def unlabeled_rows(label: Tensor) -> Tensor:
    """Return which images have no label, (N,) bool, from labels (N,) or (N, K), negative or NaN where unknown.

    Example:
        >>> import torch
        >>> unlabeled_rows(torch.tensor([2, -1])), unlabeled_rows(torch.tensor([[0.0, 1.0], [-1.0, -1.0]]))
        (tensor([False,  True]), tensor([False,  True]))
    """
    return label < 0 if label.ndim == 1 else ~(label >= 0).any(1)
