"""Validation of the arguments of operations."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_cv.errors import OptionError, refusal

__all__ = ["check_choice", "check_images", "check_interval", "check_number", "check_probability", "check_size"]


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a float within [low, high].

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of range.

    Example:
        >>> check_number("std", 0.1, 0.0)
        0.1
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(refusal(None, name, value, f"must be a number{_within(low, high)}"))
    if not low <= value <= high:
        raise OptionError(None, name, value, f"must be a number{_within(low, high)}")
    return float(value)


def check_probability(name: str, value: Any) -> float:
    """Return `value` as a probability within [0, 1]."""
    return check_number(name, value, 0.0, 1.0)


def check_interval(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """Return `value`, two ascending numbers within [low, high], as a tuple.

    Raises:
        TypeError: If it is not a pair of numbers.
        ValueError: If it is descending or out of range.

    Example:
        >>> check_interval("scale", [0.2, 1], 0.0)
        (0.2, 1.0)
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(refusal(None, name, value, f"must be two numbers, lowest first{_within(low, high)}"))
    first, last = (check_number(name, part, low, high) for part in value)
    if first > last:
        raise OptionError(None, name, list(value), "must have the lower number first")
    return first, last


def check_size(name: str, value: Any) -> tuple[int, int]:
    """Return a size in pixels, one number or [height, width], as (height, width).

    Example:
        >>> check_size("size", 224), check_size("size", [32, 48])
        ((224, 224), (32, 48))
    """
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, Sequence) or len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise OptionError(None, name, value, "must be a number of pixels, or [height, width]")
    return sides[0], sides[1]


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return `value`; raise ValueError unless it is one of the `allowed` words."""
    if value not in allowed:
        raise OptionError(None, name, value, f"choose {' or '.join(repr(word) for word in allowed)}")
    return str(value)


def check_images(images: Any) -> Tensor:
    """Return `images`; raise an error unless they are a valid batch for an operation.

    Args:
        images: (N, C, H, W), C = 1 or 3, uint8 in [0, 255] or floating point in [0, 1].

    Raises:
        TypeError: If they are not a tensor, or have another dtype.
        ValueError: If they have another shape.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images are a {type(images).__name__}: give a tensor (N, C, H, W).")
    if images.ndim == 3 and images.shape[0] in (1, 3):
        raise ValueError(
            f"images have the shape {tuple(images.shape)}: give (N, 1 or 3, H, W), images[None] for a single image."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images have the shape {tuple(images.shape)}: give (N, 1 or 3, H, W).")
    if str(images.dtype) not in _DTYPES:
        raise TypeError(f"images are {images.dtype}: give uint8 in [0, 255], or floating point in [0, 1].")
    return images


_DTYPES = ("torch.uint8", "torch.float32", "torch.bfloat16", "torch.float16")


def _within(low: float, high: float) -> str:
    if low > -math.inf and high < math.inf:
        return f" from {low:g} to {high:g}"
    if low > -math.inf:
        return f" of at least {low:g}"
    return f" of at most {high:g}" if high < math.inf else ""
