"""The Muon optimizer, from timm."""

from typing import Any

from torch.optim import Optimizer

from lit_cv.optim.optimizers import OPTIMIZERS

__all__ = []


@OPTIMIZERS.add("muon")
def _muon(
    groups: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float, betas: tuple[float, float]
) -> Optimizer:
    """Return Muon (Jordan et al. 2024), whose steps for matrices and filters are orthogonalized momentum.

    The steps are scaled to AdamW's usual size (Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2), so
    that learning rates of AdamW fit. Biases and norms are trained by AdamW.

    Raises:
        ImportError: If timm is missing or older than 1.0.21.
    """
    try:
        from timm.optim.muon import Muon
    except ImportError:
        raise ImportError('optimizer muon needs timm, which is missing: pip install "lit_cv[timm]".') from None
    optimizer: Optimizer = Muon(groups, lr=lr, momentum=momentum, nesterov=True, weight_decay=weight_decay, betas=betas)
    return optimizer
