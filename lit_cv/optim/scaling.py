"""Learning rates for batches of another size."""

import math
from typing import Literal

from lit_cv.errors import OptionError

__all__ = ["scale_lr"]

_REFERENCE = 256


def scale_lr(lr: float, batch_size: int, rule: Literal["none", "sqrt", "linear"]) -> float:
    """Return a learning rate that is meant for 256 images a step, for a batch of another size.

    Linear is the rule of Goyal et al. 2017 for SGD; the square root is what SimCLR takes for training of few epochs
    at small batches (Chen et al. 2020, appendix B.1), and suits adaptive optimizers.

    Args:
        lr: Learning rate for 256 images.
        batch_size: Images that a step of the optimizer sees, over all devices and accumulated batches.
        rule: `linear` multiplies by batch_size / 256, `sqrt` by its root, `none` by 1.

    Raises:
        ValueError: If there is no such rule.

    Example:
        >>> scale_lr(0.1, 1024, "linear"), scale_lr(0.1, 1024, "sqrt")
        (0.4, 0.2)
    """
    factors = {"none": 1.0, "sqrt": math.sqrt(batch_size / _REFERENCE), "linear": batch_size / _REFERENCE}
    if rule not in factors:
        raise OptionError(None, "lr_scaling", rule, f"give one of {', '.join(factors)}")
    return lr * factors[rule]
