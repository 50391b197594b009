"""Losses in pure torch, each usable alone."""

from lit_cv.losses.fcos import fcos_loss
from lit_cv.losses.masked_reconstruction import MaskedReconstructionLoss
from lit_cv.losses.nt_xent import NTXentLoss, nt_xent

__all__ = ["MaskedReconstructionLoss", "NTXentLoss", "fcos_loss", "nt_xent"]
