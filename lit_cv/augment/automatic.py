"""TrivialAugment and RandAugment, which apply random operations of a given or random strength."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lit_cv.augment import color, tone
from lit_cv.augment.affine import affine_maps, warp
from lit_cv.augment.checks import check_choice, check_number
from lit_cv.augment.geometry import Geometric
from lit_cv.augment.memory import on_device, write_rows
from lit_cv.augment.operation import OPERATIONS, Params
from lit_cv.errors import OptionError

__all__ = ["RandAugment", "TrivialAugment"]

_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_FACTORS = ("brightness", "saturation", "contrast", "sharpness")
_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda images, m: color.adjust_brightness(images, 1 + m),
    "saturation": lambda images, m: color.adjust_saturation(images, 1 + m),
    "contrast": lambda images, m: color.adjust_contrast(images, 1 + m),
    "sharpness": lambda images, m: tone.adjust_sharpness(images, 1 + m),
    "posterize": lambda images, m: tone.posterize(images, (8 - m).round()),
    "solarize": lambda images, m: tone.solarize(images, 1 - m),
    "autocontrast": lambda images, m: tone.autocontrast(images),
    "equalize": lambda images, m: tone.equalize(images),
}
KINDS = (*_MOVES, *_FUNCTIONS, "identity")


class _Automatic(Geometric):
    """Base of operations that apply K drawn kinds (N, K) with signed strengths (N, K) one after another."""

    computes_float = True
    overwrites = True
    _limits: ClassVar[dict[str, float]]  # maximum strength by kind; fractions of the image for translations

    def __init__(self, p: float, fill: str) -> None:
        super().__init__(p)
        self.fill = check_choice("fill", fill, ("zero", "edge", "reflect"))
        self._border = "mirror" if fill == "reflect" else fill

    def _draw_steps(self, fraction: Tensor, size: tuple[int, int]) -> Params:
        """Draw kinds and signs for strengths given as fractions (N, K) of the maximum, 0 to 1."""
        kind = torch.randint(len(KINDS), fraction.shape)
        limits = torch.tensor([self._limit(name, size) for name in KINDS])
        signed = torch.tensor([name in _MOVES or name in _FACTORS for name in KINDS])
        sign = torch.where(signed[kind], torch.randint(2, fraction.shape) * 2 - 1, 1)
        strength = fraction * limits[kind] * sign
        shifts = torch.tensor([name.startswith("translate") for name in KINDS])
        return {"kind": kind, "strength": torch.where(shifts[kind], strength.trunc(), strength)}

    def _limit(self, name: str, size: tuple[int, int]) -> float:
        limit = self._limits.get(name, 1.0)
        if name.startswith("translate"):
            return limit * (size[1] if name.endswith("x") else size[0])
        return limit

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        size = (images.shape[2], images.shape[3])
        for kind, strength in zip(params["kind"].unbind(1), params["strength"].unbind(1), strict=True):
            kinds = kind.numpy()
            moved = torch.from_numpy(np.flatnonzero(kinds < len(_MOVES)))
            if len(moved):
                maps = _moves(kind.index_select(0, moved), strength.index_select(0, moved), size)
                part = warp(images.index_select(0, on_device(moved, images)), maps, self.fill)
                write_rows(images, moved, part)
            for number in sorted(set(kinds.tolist())):
                if KINDS[number] in _FUNCTIONS:
                    index = torch.from_numpy(np.flatnonzero(kinds == number))
                    part = images.index_select(0, on_device(index, images))
                    part = _FUNCTIONS[KINDS[number]](part, strength.index_select(0, index))
                    write_rows(images, index, part)
        return images

    def _to_input(self, params: Params, size: tuple[int, int]) -> Tensor:
        maps = torch.eye(2, 3).expand(len(params["kind"]), 2, 3)
        for kind, strength in zip(params["kind"].unbind(1), params["strength"].unbind(1), strict=True):
            step = _moves(kind, strength, size)
            shift = (maps[:, :, :2] @ step[:, :, 2:]) + maps[:, :, 2:]
            maps = torch.cat([maps[:, :, :2] @ step[:, :, :2], shift], 2)
        return maps


@OPERATIONS.add("trivial_augment")
class TrivialAugment(_Automatic):
    """One operation of random strength per sample (Müller & Hutter, 2021, the "wide" space).

    The operations and strengths are those of torchvision's TrivialAugmentWide: identity, shear, translation, rotation,
    brightness, saturation, contrast, sharpness, posterize, solarize, autocontrast and equalize. Unlike there,
    translations are at most a third of the image, so that the content of small images stays visible, and shear keeps
    the center in place.

    Args:
        p: Probability of changing a sample.
        fill: Values beyond the edges: "zero" (black), "edge" or "reflect" (mirror image).
    """

    _limits: ClassVar[dict[str, float]] = {
        "shear_x": 0.99,
        "shear_y": 0.99,
        "translate_x": 32.0,
        "translate_y": 32.0,
        "rotate": 135.0,
        **dict.fromkeys(_FACTORS, 0.99),
        "posterize": 6.0,
    }

    def __init__(self, p: float = 1.0, fill: str = "zero") -> None:
        super().__init__(p, fill)

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        return self._draw_steps(torch.randint(31, (n, 1)) / 30, size)

    def _limit(self, name: str, size: tuple[int, int]) -> float:
        if name.startswith("translate"):
            return min(self._limits[name], (size[1] if name.endswith("x") else size[0]) / 3)
        return super()._limit(name, size)


@OPERATIONS.add("rand_augment")
class RandAugment(_Automatic):
    """Several operations of one strength per sample (Cubuk et al., 2020).

    The operations are those of TrivialAugment, with the ranges of torchvision's RandAugment; shear keeps the
    center in place.

    Args:
        num_operations: Number of operations applied to each sample, one after another.
        magnitude: Strength of the operations, 0 to 30.
        p: Probability of changing a sample.
        fill: Values beyond the edges: "zero" (black), "edge" or "reflect" (mirror image).
    """

    _limits: ClassVar[dict[str, float]] = {
        "shear_x": 0.3,
        "shear_y": 0.3,
        "translate_x": 150 / 331,
        "translate_y": 150 / 331,
        "rotate": 30.0,
        **dict.fromkeys(_FACTORS, 0.9),
        "posterize": 4.0,
    }

    def __init__(self, num_operations: int = 2, magnitude: float = 9, p: float = 1.0, fill: str = "zero") -> None:
        super().__init__(p, fill)
        if type(num_operations) is not int or num_operations < 1:
            raise OptionError(self, "num_operations", num_operations, "must be an integer of at least 1")
        self.num_operations = num_operations
        self.magnitude = check_number("magnitude", magnitude, 0.0, 30.0)

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        return self._draw_steps(torch.full((n, self.num_operations), self.magnitude / 30), size)


def _moves(kind: Tensor, strength: Tensor, size: tuple[int, int]) -> Tensor:
    def only(name: str) -> Tensor:
        return torch.where(kind == KINDS.index(name), strength, 0.0)

    return affine_maps(
        size,
        angle=only("rotate"),
        x=only("translate_x"),
        y=only("translate_y"),
        scale=torch.ones_like(strength),
        shear=torch.rad2deg(only("shear_x").atan()),
        shear_y=torch.rad2deg(only("shear_y").atan()),
    )
