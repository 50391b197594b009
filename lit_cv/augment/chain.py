"""Several operations, one after another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_cv.augment.checks import check_images
from lit_cv.augment.geometry import Geometric
from lit_cv.augment.memory import copied, in_layout, memory_layout, one_thread, to_float, write_bytes
from lit_cv.augment.operation import Operation, Params
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["Chain"]

_LARGE = 1 << 16  # numbers of an image that alone fills the processor's cache, in float32
_TOGETHER = 1 << 18  # numbers of smaller images that are worth the calls


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

    @property
    def moves_pixels(self) -> bool:  # type: ignore[override]
        """Whether any operation does."""
        return any(operation.moves_pixels for operation in self.operations)

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size that images leave with."""
        for operation in self.operations:
            size = operation.output_size(size)
        return size

    def crop_to(self, size: tuple[int, int] | None) -> bool:
        """Let the last operation that crops do so to this size, unless it was given one."""
        return any(operation.crop_to(size) for operation in reversed(self.operations))

    def params_of(self, params: Params, i: int) -> Params:
        """Return the parameters of operation number `i`."""
        start = f"{i}."
        return {name.removeprefix(start): value for name, value in params.items() if name.startswith(start)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Apply drawn parameters to images (N, C, H, W)."""
        n, channels, *size = check_images(images).shape
        height, width = self.output_size((size[0], size[1]))
        out = torch.empty(
            (n, channels, height, width), dtype=images.dtype, device=images.device, memory_format=memory_layout(images)
        )
        images = in_layout(images)
        own = [self.params_of(params, i) for i in range(len(self.operations))]
        if n and images.device.type != "cpu":
            self._run(images, own, out)
        elif n:
            numbers = channels * max(size[0] * size[1], height * width)
            step = 1 if numbers > _LARGE else max(_TOGETHER // numbers, 1)
            split = [{name: torch.split(value, step) for name, value in each.items()} for each in own]
            with one_thread():
                for k, (part, target) in enumerate(zip(torch.split(images, step), torch.split(out, step), strict=True)):
                    self._run(part, [{name: parts[k] for name, parts in each.items()} for each in split], target)
        return out

    def move_masks(self, masks: Tensor, params: Params, fill: int = IGNORE_INDEX) -> Tensor:
        """Move masks (N, H, W) as the images; see `Geometric.move_masks`."""
        for i, operation in enumerate(self.operations):
            if operation.moves_pixels:
                masks = _geometric(operation).move_masks(masks, self.params_of(params, i), fill)
        return masks

    def move_boxes(
        self, boxes: Sequence[Tensor], params: Params, size: tuple[int, int], min_visible: float = 0.25
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Move boxes as the images of `size`, and tell which are left; see `geometry.move_boxes`."""
        moved = list(boxes)
        places = [torch.arange(len(own), device=own.device) for own in moved]
        for i, operation in enumerate(self.operations):
            if operation.moves_pixels:
                own_params = self.params_of(params, i)
                moved, keep = _geometric(operation).move_boxes(moved, own_params, size, min_visible)
                places = [place[kept] for place, kept in zip(places, keep, strict=True)]
            size = operation.output_size(size)
        kept = [torch.zeros(len(own), dtype=torch.bool, device=own.device) for own in boxes]
        for own, place in zip(kept, places, strict=True):
            own[place] = True
        return moved, kept

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        params: Params = {}
        for i, operation in enumerate(self.operations):
            params |= {f"{i}.{name}": value for name, value in operation.draw_for(n, size).items()}
            size = operation.output_size(size)
        return params

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        return self.apply(images, params)

    def _run(self, images: Tensor, params: list[Params], out: Tensor) -> None:
        as_bytes = images.dtype == torch.uint8
        owned = False  # whether `images` are no longer the caller's
        for operation, own in zip(self.operations, params, strict=True):
            before = images
            if operation.computes_float and (images.dtype != torch.float32 or not images.is_contiguous() or not owned):
                images, owned = to_float(images), True
            elif operation.overwrites and not owned:
                images, owned = copied(images), True
            images = operation.transform(images, own)
            owned = owned or images is not before
        if as_bytes and images.dtype != torch.uint8:
            write_bytes(images, out)
        else:
            out.copy_(images)


def _geometric(operation: Operation) -> Geometric | Chain:
    if not isinstance(operation, Geometric | Chain):
        raise TypeError(f"{operation!r} moves pixels but cannot move masks and boxes along: leave it out.")
    return operation
