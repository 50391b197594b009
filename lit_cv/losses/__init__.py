"""Losses in pure torch, each usable alone."""

from lit_cv.losses.discrepancy import CORALLoss, MMDLoss, coral, mmd
from lit_cv.losses.masked_reconstruction import MaskedReconstructionLoss
from lit_cv.losses.nt_xent import NTXentLoss, nt_xent
from lit_cv.losses.pseudo_labels import class_thresholds, pseudo_labels

__all__ = [
    "CORALLoss",
    "MMDLoss",
    "MaskedReconstructionLoss",
    "NTXentLoss",
    "class_thresholds",
    "coral",
    "mmd",
    "nt_xent",
    "pseudo_labels",
]
