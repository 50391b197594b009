"""Random changes to batches of images, in pure torch, each sample with a draw of its own."""

from lit_cv.augment.build import OPERATIONS, build_operations
from lit_cv.augment.chain import Chain
from lit_cv.augment.flip import HorizontalFlip, VerticalFlip
from lit_cv.augment.operation import Operation
from lit_cv.augment.random_crop import RandomCrop
from lit_cv.augment.resized_crop import RandomResizedCrop

__all__ = [
    "OPERATIONS",
    "Chain",
    "HorizontalFlip",
    "Operation",
    "RandomCrop",
    "RandomResizedCrop",
    "VerticalFlip",
    "build_operations",
]
