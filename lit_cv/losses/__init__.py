"""Losses, each testable alone. Pure torch."""

from lit_cv.losses.masked_reconstruction import MaskedReconstructionLoss

__all__ = ["MaskedReconstructionLoss"]
