"""CutMix."""

import torch
from torch import Tensor

from lit_cv.augment import cutmix, draw_cutmix
from lit_cv.callbacks.mixing import MixingCallback

__all__ = ["CutMix"]


class CutMix(MixingCallback):
    """Pastes a box of another image into each training image and mixes the labels by area.

    Yun et al., 2019. Every sample gets its own box. The weight of the other label is the area actually pasted, after
    clipping at the image border. Labels become float weights (N, num_classes). Together with `MixUp`, each sample is
    mixed at most once: `CutMix(p=0.5)` before `MixUp(p=1.0)` applies each to half of the samples.

    Args:
        alpha: Parameter of Beta(alpha, alpha), from which the remaining area fraction is drawn; 1 for uniform.
        p: Probability that a sample is mixed.
        stop_epoch: When mixing stops: an epoch, counted from 0, or a fraction of training, up to 1.0; None for
            never.

    Raises:
        TypeError: In training, if the batch has no labels or has masks or boxes, or the module has no `num_classes`.
    """

    def __init__(self, alpha: float = 1.0, p: float = 1.0, stop_epoch: int | float | None = None) -> None:
        super().__init__(alpha, p, stop_epoch)

    def _mix(self, images: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        boxes, keep = draw_cutmix(len(images), (images.shape[2], images.shape[3]), self.alpha)
        return cutmix(images, boxes * free[:, None]), torch.where(free, keep, 1.0)
