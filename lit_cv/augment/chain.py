"""Several operations, one after another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_cv.augment.checks import check_images
from lit_cv.augment.operation import Operation, Params, is_channels_last, take, to_float

__all__ = ["Chain"]

_CPU_CHUNK = 1 << 18  # numbers worked on at a time: their float32 form stays in the processor's cache


class Chain(Operation):
    """Applies operations one after another.

    Images are converted to float32 at most once, before the first operation that needs it, and back at the
    end. On the CPU a few samples go through all operations together, while they are in the cache; what comes
    out does not depend on it, since all parameters are drawn before.

    Args:
        operations: The operations, in order.

    Example:
        >>> from lit_cv.augment import HorizontalFlip, RandomCrop
        >>> Chain([RandomCrop(padding=4), HorizontalFlip()])(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        super().__init__()
        self.operations = list(operations)

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size that images leave with."""
        for operation in self.operations:
            size = operation.output_size(size)
        return size

    def _draw(self, n: int, size: tuple[int, int], device: torch.device) -> Params:
        params: Params = {}
        for i, operation in enumerate(self.operations):
            params[str(i)] = operation.draw_for(n, size, device)
            size = operation.output_size(size)
        return params

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Apply drawn parameters to images (N, C, H, W)."""
        n, channels, *size = check_images(images).shape
        layout = torch.channels_last if is_channels_last(images) else torch.contiguous_format
        height, width = self.output_size((size[0], size[1]))
        out = images.new_empty(n, channels, height, width).contiguous(memory_format=layout)
        step = n
        if images.device.type == "cpu":
            step = _CPU_CHUNK // (channels * max(size[0] * size[1], height * width))
        for start in range(0, n, max(step, 1)):
            part = slice(start, start + max(step, 1))
            self._run(images[part], take(params, part), out[part])
        return out

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        return self.apply(images, params)

    def _run(self, images: Tensor, params: Params, out: Tensor) -> None:
        dtype, owned = images.dtype, False
        for i, operation in enumerate(self.operations):
            before = images
            if operation.computes_float and images.dtype != torch.float32:
                images, owned = to_float(images), True
            elif operation.overwrites and not owned:
                images, owned = images.clone(), True
            images = operation.transform(images, params[str(i)])
            owned = owned or images is not before
        if images.dtype == torch.float32 and dtype == torch.uint8:
            images = images.mul_(255).add_(0.5)
        out.copy_(images)
