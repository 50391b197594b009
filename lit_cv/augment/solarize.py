"""Random solarization."""

import torch
from torch import Tensor

from lit_cv.augment import tone
from lit_cv.augment.checks import check_number
from lit_cv.augment.operation import OPERATIONS, Operation, Params

__all__ = ["Solarize"]


@OPERATIONS.add("solarize")
class Solarize(Operation):
    """Inversion of bright values.

    Args:
        threshold: Smallest value that is inverted, 0 to 1.
        p: Probability of changing a sample.

    Example:
        >>> Solarize(0.5, p=1.0)(torch.tensor([[[[0.25, 0.75]]]]))
        tensor([[[[0.2500, 0.2500]]]])
    """

    computes_float = True
    overwrites = True

    def __init__(self, threshold: float = 0.5, p: float = 0.2) -> None:
        super().__init__(p)
        self.threshold = check_number("threshold", threshold, 0.0, 1.0)

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        return {"threshold": torch.full((n,), self.threshold)}

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        return tone.solarize(images, params["threshold"])
