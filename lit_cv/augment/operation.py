"""The base of all augmentations, which separates drawing parameters from applying them."""

import inspect
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lit_cv.augment.checks import check_images, check_probability
from lit_cv.augment.memory import copied, from_float, in_layout, memory_layout, on_device, to_float, write_rows
from lit_cv.registry import Registry

__all__ = ["OPERATIONS", "Operation", "Params"]

Params = dict[str, Tensor]
"""Parameters of a batch by name, on the CPU; every tensor has one entry per sample."""


class Operation(ABC):
    """A random change of a batch of images, drawn independently for every sample.

    `operation(images)` draws and applies. Both halves can be called separately: `draw` returns the parameters of every
    sample, and `apply` uses them. A result can therefore be compared with a reference, and several tensors can share a
    draw. Parameters are drawn from torch's default CPU generator for every device: a seed gives the same images
    everywhere, and no synchronization with a GPU is needed.

    Images are (N, C, H, W), C = 1 or 3, N may be 0, uint8 in [0, 255] or floating point in [0, 1]. The result has the
    dtype and memory format of the images; the images do not change. Operations that compute in float32
    (`computes_float`) round to uint8 at the end; a `Chain` of several operations converts once.

    A subclass implements `_draw` and `_transform`.

    Args:
        p: Probability of changing a sample, 0 to 1.
    """

    computes_float: ClassVar[bool] = False
    """Whether `_transform` needs a contiguous float32 copy; otherwise images are contiguous or channels_last."""
    overwrites: ClassVar[bool] = False
    """Whether `transform` may write to its input images."""
    moves_pixels: ClassVar[bool] = False
    """Whether masks and boxes must be transformed, too."""

    def __init__(self, p: float = 1.0) -> None:
        self.p = check_probability("p", p)

    def __call__(self, images: Tensor) -> Tensor:
        """Draw parameters for every sample and apply them."""
        return self.apply(images, self.draw(images))

    def draw(self, images: Tensor) -> Params:
        """Draw the parameters of every sample; only the shape and dtype of the images are used."""
        check_images(images)
        return self.draw_for(len(images), (images.shape[2], images.shape[3]))

    def draw_for(self, n: int, size: tuple[int, int]) -> Params:
        """Draw the parameters of `n` samples of `size` (height, width) in pixels."""
        params = self._draw(n, size)
        if self.p < 1:
            params["applied"] = torch.rand(n) < self.p
        return params

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Apply drawn parameters to images (N, C, H, W)."""
        check_images(images)
        layout = memory_layout(images)
        if self.computes_float:
            result = self.transform(to_float(images), params)
            result = result if images.dtype == torch.float32 else from_float(result, images.dtype)
        else:
            images = copied(images) if self.overwrites else in_layout(images)
            result = self.transform(images, params)
        return result.contiguous(memory_format=layout)

    def transform(self, images: Tensor, params: Params) -> Tensor:
        """Apply drawn parameters to the selected samples; may write to `images`."""
        if "applied" not in params or len(images) == 0:
            return self._transform(images, params)
        if len(images) == 1:
            return self._transform(images, params) if bool(params["applied"]) else images
        index = torch.from_numpy(np.flatnonzero(params["applied"].numpy()))
        if len(index) == len(images):
            return self._transform(images, params)
        if len(index) == 0:
            return images
        changed = self._transform(images.index_select(0, on_device(index, images)), take(params, index))
        write_rows(images, index, changed)
        return images

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the output (height, width) for images of `size`."""
        return size

    def crop_to(self, size: tuple[int, int] | None) -> bool:
        """Set the output size of a crop that has none, `None` for the image size; return whether this is a crop."""
        return False

    @abstractmethod
    def _draw(self, n: int, size: tuple[int, int]) -> Params: ...

    @abstractmethod
    def _transform(self, images: Tensor, params: Params) -> Tensor: ...

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


OPERATIONS: Registry[type[Operation]] = Registry("operation", Operation, "lit_cv.augment")
"""The operations by name."""


def take(params: Params, index: Tensor | slice) -> Params:
    """Select the parameters of some samples."""
    if isinstance(index, slice):
        return {name: value[index] for name, value in params.items()}
    return {name: value.index_select(0, index) for name, value in params.items()}
