"""Checks of arguments, with one wording for errors."""

import math
from collections.abc import Sequence

from lit_cv.errors import OptionError

__all__ = ["check", "checked_range"]


def check(owner: object, name: str, value: object, ok: bool, allowed: str) -> None:
    """Raise if an argument of a DataModule is invalid.

    Args:
        owner: The DataModule.
        name: Name of the argument.
        value: Value of the argument.
        ok: Whether the value is valid.
        allowed: Description of the valid values, which follows "give".

    Raises:
        ValueError: If the value is invalid.
    """
    if not ok:
        raise OptionError(owner, name, value, f"must be {allowed}")


def checked_range(owner: object, value_range: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the argument `value_range` as a tuple: lowest and highest value of images with 16 or 32 bits.

    Raises:
        ValueError: If it is not two increasing finite numbers.
    """
    if value_range is None:
        return None
    low, high = value_range if len(value_range) == 2 else (0.0, 0.0)
    ok = math.isfinite(high - low) and low < high
    check(owner, "value_range", value_range, ok, "the lowest and the highest value of the images, or null")
    return float(low), float(high)
