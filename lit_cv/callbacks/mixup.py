"""MixUp."""

import torch
from torch import Tensor

from lit_cv.augment import draw_mixup, mixup
from lit_cv.callbacks.mixing import MixingCallback

__all__ = ["MixUp"]


class MixUp(MixingCallback):
    """Replaces each training image and its label by weighted means with those of another image.

    Zhang et al., 2018. Every sample gets its own weight. Labels become float weights (N, num_classes).
    Together with `CutMix`, each sample is mixed at most once.

    Args:
        alpha: Parameter of Beta(alpha, alpha), from which weights are drawn; small values mix weakly.
        p: Probability that a sample is mixed.
        stop_epoch: When mixing stops: an epoch, counted from 0, or a fraction of training, up to 1.0; None for
            never.

    Raises:
        TypeError: In training, if the batch has no labels or has masks or boxes, or the module has no `num_classes`.
    """

    def __init__(self, alpha: float = 0.2, p: float = 1.0, stop_epoch: int | float | None = None) -> None:
        super().__init__(alpha, p, stop_epoch)

    def _mix(self, images: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        weight = torch.where(free, draw_mixup(len(images), self.alpha), 1.0)
        return mixup(images, weight), weight
