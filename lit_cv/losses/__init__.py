"""Losses, each testable alone. Pure torch."""

from lit_cv.losses.nt_xent import NTXentLoss, nt_xent

__all__ = ["NTXentLoss", "nt_xent"]
