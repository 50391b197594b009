"""One wording for arguments out of their range."""

import math
from collections.abc import Sequence

from lit_cv.errors import OptionError

__all__ = ["check", "checked_range"]


def check(owner: object, name: str, value: object, ok: bool, allowed: str) -> None:
    """Refuse an argument of a DataModule.

    Args:
        owner: The DataModule.
        name: Name of the argument.
        value: What was given.
        ok: Whether that is allowed.
        allowed: What is allowed, to follow "give".

    Raises:
        ValueError: If it is not `ok`.
    """
    if not ok:
        raise OptionError(owner, name, value, f"give {allowed}")


def checked_range(owner: object, given: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the argument `value_range`, the lowest and the highest value of images with 16 or 32 bits.

    Raises:
        ValueError: If it is not two numbers, the first of which is the lower one.
    """
    ok = given is None or (len(given) == 2 and math.isfinite(given[1] - given[0]) and given[0] < given[1])
    check(owner, "value_range", given, ok, "the lowest and the highest value of the images, or null")
    return None if given is None else (float(given[0]), float(given[1]))
