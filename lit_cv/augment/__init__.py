"""Augmentation of batches of images in pure torch, with an independent draw for every sample."""

from lit_cv.augment.affine import Affine, Rotation, Scaling
from lit_cv.augment.automatic import RandAugment, TrivialAugment
from lit_cv.augment.blur import GaussianBlur
from lit_cv.augment.build import build_operations
from lit_cv.augment.chain import Chain
from lit_cv.augment.color_jitter import ColorJitter, Grayscale
from lit_cv.augment.cutout import Cutout
from lit_cv.augment.flip import HorizontalFlip, VerticalFlip
from lit_cv.augment.mixing import cutmix, draw_cutmix, draw_mixup, mix_labels, mixup, soft_labels
from lit_cv.augment.noise import GaussianNoise
from lit_cv.augment.operation import OPERATIONS, Operation
from lit_cv.augment.policies import POLICIES, policy_operations, simclr_operations
from lit_cv.augment.random_crop import RandomCrop
from lit_cv.augment.resized_crop import RandomResizedCrop
from lit_cv.augment.solarize import Solarize

__all__ = [
    "OPERATIONS",
    "POLICIES",
    "Affine",
    "Chain",
    "ColorJitter",
    "Cutout",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "HorizontalFlip",
    "Operation",
    "RandAugment",
    "RandomCrop",
    "RandomResizedCrop",
    "Rotation",
    "Scaling",
    "Solarize",
    "TrivialAugment",
    "VerticalFlip",
    "build_operations",
    "cutmix",
    "draw_cutmix",
    "draw_mixup",
    "mix_labels",
    "mixup",
    "policy_operations",
    "simclr_operations",
    "soft_labels",
]
