"""Scaling of the learning rate with the batch size."""

import math
from typing import Literal

from lit_cv.errors import OptionError

__all__ = ["scale_lr"]

_REFERENCE = 256


def scale_lr(lr: float, batch_size: int, rule: Literal["none", "sqrt", "linear"]) -> float:
    """Convert a learning rate for a batch size of 256 to another batch size.

    `linear` is the rule of Goyal et al. 2017 for SGD. `sqrt` is SimCLR's choice for small batches and few epochs (Chen
    et al. 2020, appendix B.1), and suits adaptive optimizers.

    Args:
        lr: Learning rate for a batch size of 256.
        batch_size: Images per optimizer step, over all devices and accumulated batches.
        rule: `linear` multiplies by batch_size / 256, `sqrt` by its square root, `none` by 1.

    Raises:
        ValueError: If the rule is unknown.

    Example:
        >>> scale_lr(0.1, 1024, "linear"), scale_lr(0.1, 1024, "sqrt")
        (0.4, 0.2)
    """
    factors = {"none": 1.0, "sqrt": math.sqrt(batch_size / _REFERENCE), "linear": batch_size / _REFERENCE}
    if rule not in factors:
        raise OptionError(None, "lr_scaling", rule, f"must be one of {', '.join(factors)}")
    return lr * factors[rule]
