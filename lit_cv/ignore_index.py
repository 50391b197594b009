"""What targets hold where the class is unknown."""

__all__ = ["IGNORE_INDEX", "UNLABELED"]

IGNORE_INDEX = 255
"""Value of a pixel in a mask."""

UNLABELED = -1
"""Label of an image."""
