"""Losses in pure torch, each usable alone."""

from lit_cv.losses.fcos import fcos_loss
from lit_cv.losses.masked_reconstruction import MaskedReconstructionLoss
from lit_cv.losses.nt_xent import NTXentLoss, nt_xent
from lit_cv.losses.segmentation import dice_loss, pixel_cross_entropy

__all__ = ["MaskedReconstructionLoss", "NTXentLoss", "dice_loss", "fcos_loss", "nt_xent", "pixel_cross_entropy"]
