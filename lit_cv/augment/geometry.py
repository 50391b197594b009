"""Operations that move pixels: masks and boxes move along."""

from abc import abstractmethod

import torch
from torch import Tensor

from lit_cv.augment.operation import Operation, Params

__all__ = ["Geometric"]


class Geometric(Operation):
    """An operation that moves pixels, by an affine map of each sample.

    Masks and boxes follow with the same drawn parameters: `apply_to_masks`, `apply_to_boxes`.

    A subclass gives the map as `_to_input`.
    """

    def matrices(self, params: Params, size: tuple[int, int]) -> Tensor:
        """Return the maps (N, 2, 3) from (x, y, 1) in the result to (x, y) in images of `size`, in pixels.

        Coordinates are continuous: the first pixel spans 0 to 1, its centre is 0.5.
        """
        maps = self._to_input(params, size)
        applied = params.get("applied")
        if applied is None:
            return maps
        return torch.where(applied.view(-1, 1, 1), maps, torch.eye(2, 3))

    @property
    def _border(self) -> str:
        """What lies beyond the images: "zero", "reflect" or "edge"."""
        return "zero"

    @abstractmethod
    def _to_input(self, params: Params, size: tuple[int, int]) -> Tensor: ...
