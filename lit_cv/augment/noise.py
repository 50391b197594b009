"""Gaussian noise."""

import torch
from torch import Tensor

from lit_cv.augment.checks import check_interval
from lit_cv.augment.memory import per_sample
from lit_cv.augment.operation import OPERATIONS, Operation, Params

__all__ = ["GaussianNoise"]


@OPERATIONS.add("gaussian_noise")
class GaussianNoise(Operation):
    """Independent Gaussian noise on every value, clipped to [0, 1].

    `draw` draws only the standard deviation; the noise itself is drawn on the device of the images when it is added.

    Args:
        std: Minimum and maximum standard deviation, for images in [0, 1].
        p: Probability of changing a sample.
    """

    computes_float = True
    overwrites = True

    def __init__(self, std: list[float] | tuple[float, float] = (0.0, 0.1), p: float = 0.5) -> None:
        super().__init__(p)
        self.std = check_interval("std", std, 0.0)

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        return {"std": torch.empty(n).uniform_(*self.std)}

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        return images.addcmul_(torch.randn_like(images), per_sample(params["std"], images)).clamp_(0, 1)
