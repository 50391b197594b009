"""Augmentation policies for kinds of images, by name."""

from collections.abc import Callable
from typing import Any

from lit_cv.errors import OptionError
from lit_cv.suggest import nearest

__all__ = ["POLICIES", "policy_operations", "simclr_operations"]


def simclr_operations(
    size: int | None = None,
    strength: float = 1.0,
    min_scale: float = 0.08,
    max_scale: float = 1.0,
    blur: float = 0.5,
    solarize: float = 0.0,
    exact: bool = True,
) -> list[Any]:
    """Return the operations for one view of SimCLR (Chen et al., 2020, appendix A).

    Args:
        size: Size of the view in pixels; None for the size of the images.
        strength: Strength s of the color distortion: 0.8 s, 0.8 s, 0.8 s and 0.2 s. The paper uses 1 for
            ImageNet, 0.5 for CIFAR-10.
        min_scale: Minimum area of the crop, as a fraction of the image.
        max_scale: Maximum area of the crop.
        blur: Probability of a Gaussian blur; the paper does not use it for CIFAR-10.
        solarize: Probability of solarization (0.2 for BYOL's second view).
        exact: Whether colors are changed exactly, or by one matrix per sample: see `ColorJitter`.
    """
    color = dict.fromkeys(("brightness", "contrast", "saturation"), 0.8 * strength)
    operations = [
        {"name": "random_resized_crop", "size": size, "scale": [min_scale, max_scale]},
        "horizontal_flip",
        {"name": "color_jitter", **color, "hue": 0.2 * strength, "p": 0.8, "exact": exact},
        {"name": "grayscale", "p": 0.2},
    ]
    if blur:
        operations.append({"name": "gaussian_blur", "p": blur})
    if solarize:
        operations.append({"name": "solarize", "p": solarize})
    return operations


def _small_images(size: int | None) -> list[Any]:
    return [{"name": "random_crop", "padding": 4, "size": size}, "horizontal_flip"]


def _photographs(size: int | None) -> list[Any]:
    return [{"name": "random_resized_crop", "size": size}, "horizontal_flip"]


def _symbols(size: int | None) -> list[Any]:
    move = {"name": "affine", "degrees": 10, "translate": 0.1, "scale": [0.9, 1.1], "shear": 5}
    return [move] if size is None else [move, {"name": "random_crop", "padding": 0, "size": size}]


def _simclr(size: int | None) -> list[Any]:
    return simclr_operations(size)


def _simclr_small(size: int | None) -> list[Any]:
    return simclr_operations(size, strength=0.5, min_scale=0.2, blur=0.0)


def _trivial(base: Callable[[int | None], list[Any]]) -> Callable[[int | None], list[Any]]:
    return lambda size: [*base(size), "trivial_augment", {"name": "cutout", "size": 0.25, "p": 0.5}]


def _rand(base: Callable[[int | None], list[Any]]) -> Callable[[int | None], list[Any]]:
    return lambda size: [*base(size), "rand_augment"]


POLICIES: dict[str, Callable[[int | None], list[Any]]] = {
    "small_images": _small_images,
    "small_images_strong": _trivial(_small_images),
    "photographs": _photographs,
    "photographs_strong": _trivial(_photographs),
    "photographs_rand": _rand(_photographs),
    "symbols": _symbols,
    "simclr": _simclr,
    "simclr_small": _simclr_small,
}
"""Functions that return the list of operations of each policy for an image size in pixels."""


def policy_operations(name: str, size: int | None = None) -> list[Any]:
    """Return the list of operations of a policy, for `build_operations`.

    Args:
        name: `small_images` (padded crop, flip), `photographs` (resized crop, flip), either followed by `_strong`
            (adds TrivialAugment and Cutout), `photographs_rand` (adds RandAugment), `symbols` (small affine
            transforms, no flip), `simclr` or `simclr_small` (one view).
        size: Output size in pixels; None for the size of the images.

    Raises:
        ValueError: If there is no such policy.

    Example:
        >>> policy_operations("photographs", 64)
        [{'name': 'random_resized_crop', 'size': 64}, 'horizontal_flip']
    """
    if name not in POLICIES:
        raise OptionError(None, "policy", name, f"there is no such policy{nearest(name, POLICIES)}")
    return POLICIES[name](size)
