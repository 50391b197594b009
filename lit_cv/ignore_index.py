"""Target values that mean an unknown class."""

__all__ = ["IGNORE_INDEX", "UNLABELED"]

IGNORE_INDEX = 255
"""Mask value of a pixel without a class."""

UNLABELED = -1
"""Label of an image without a class."""
