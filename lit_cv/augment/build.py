"""Operations from a declarative list, as it stands in a YAML file."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lit_cv.augment.affine import Affine, Rotation, Scaling
from lit_cv.augment.automatic import RandAugment, TrivialAugment
from lit_cv.augment.blur import GaussianBlur
from lit_cv.augment.chain import Chain
from lit_cv.augment.color_jitter import ColorJitter, Grayscale
from lit_cv.augment.cutout import Cutout
from lit_cv.augment.flip import HorizontalFlip, VerticalFlip
from lit_cv.augment.noise import GaussianNoise
from lit_cv.augment.operation import Operation
from lit_cv.augment.random_crop import RandomCrop
from lit_cv.augment.resized_crop import RandomResizedCrop
from lit_cv.augment.solarize import Solarize
from lit_cv.suggest import nearest

__all__ = ["OPERATIONS", "build_operations"]

OPERATIONS: dict[str, Callable[..., Operation]] = {
    "random_crop": RandomCrop,
    "random_resized_crop": RandomResizedCrop,
    "horizontal_flip": HorizontalFlip,
    "vertical_flip": VerticalFlip,
    "affine": Affine,
    "rotation": Rotation,
    "scaling": Scaling,
    "color_jitter": ColorJitter,
    "grayscale": Grayscale,
    "solarize": Solarize,
    "gaussian_blur": GaussianBlur,
    "gaussian_noise": GaussianNoise,
    "cutout": Cutout,
    "trivial_augment": TrivialAugment,
    "rand_augment": RandAugment,
}
"""Every operation by its name in a list."""


def build_operations(operations: Sequence[str | Mapping[str, Any]]) -> Chain:
    """Build a chain from a list of operations.

    Args:
        operations: Names, or dicts of a `name` and the operation's arguments.

    Raises:
        TypeError: If an entry is neither.
        ValueError: If a name or an argument does not exist, or a value is out of range.

    Example:
        >>> build_operations(["horizontal_flip", {"name": "random_crop", "padding": 2}]).operations
        [HorizontalFlip(p=0.5), RandomCrop(padding=2, size=None, fill='zero')]
    """
    if isinstance(operations, str | Mapping) or not isinstance(operations, Sequence):
        raise TypeError(f"operations={operations!r}: give a list of names, or of dicts with a name.")
    return Chain([_build(entry) for entry in operations])


def _build(entry: str | Mapping[str, Any]) -> Operation:
    options = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise TypeError(f"operation {entry!r}: give a name, or a dict such as {{name: random_crop, padding: 4}}.")
    name = options["name"]
    if name not in OPERATIONS:
        raise ValueError(f"there is no operation {name!r}{nearest(name, OPERATIONS)}")
    kind = OPERATIONS[name]
    allowed = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {key: value for key, value in options.items() if key != "name"}
    for key in arguments:
        if key not in allowed:
            raise ValueError(f"operation {name!r} has no argument {key!r}{nearest(str(key), allowed)}")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"operation {name!r}: {error}") from None
