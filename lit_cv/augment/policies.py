"""Augmentations that fit a kind of images, by name."""

from collections.abc import Callable
from typing import Any

from lit_cv.suggest import nearest

__all__ = ["POLICIES", "policy_operations"]


def _small_images(size: int | None) -> list[Any]:
    return [{"name": "random_crop", "padding": 4, "size": size}, "horizontal_flip"]


def _photographs(size: int | None) -> list[Any]:
    return [{"name": "random_resized_crop", "size": size or 224}, "horizontal_flip"]


POLICIES: dict[str, Callable[[int | None], list[Any]]] = {
    "small_images": _small_images,
    "photographs": _photographs,
}
"""What gives each policy's list of operations for an image size in pixels."""


def policy_operations(name: str, size: int | None = None) -> list[Any]:
    """Return the list of operations of a policy, as `build_operations` takes it.

    Args:
        name: Name of the policy.
        size: Size of the images that leave it, in pixels; None for the policy's own choice.

    Raises:
        ValueError: If there is no such policy.

    Example:
        >>> policy_operations("photographs", 64)
        [{'name': 'random_resized_crop', 'size': 64}, 'horizontal_flip']
    """
    if name not in POLICIES:
        raise ValueError(f"there is no policy {name!r}{nearest(name, POLICIES)}")
    return POLICIES[name](size)
