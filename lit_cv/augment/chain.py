"""A sequence of operations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_cv.augment.checks import check_images
from lit_cv.augment.geometry import Geometric
from lit_cv.augment.memory import copied, in_layout, memory_layout, one_thread, to_float, write_bytes
from lit_cv.augment.operation import Operation, Params
from lit_cv.ignore_index import IGNORE_INDEX

__all__ = ["Chain"]

_LARGE = 1 << 16  # values of an image that fills the processor's cache on its own, in float32
_TOGETHER = 1 << 18  # values of the smaller images that are processed together


class Chain(Operation):
    """Operations that are applied one after another.

    Images are converted to float32 at most once, before the first operation that needs it, and back at the
    end. On the CPU, a few samples at a time pass through all operations while they are in the cache. This does not
    affect the result, since all parameters are drawn before.

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
        """Whether any operation moves pixels."""
        return any(operation.moves_pixels for operation in self.operations)

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the image size after all operations."""
        for operation in self.operations:
            size = operation.output_size(size)
        return size

    def crop_to(self, size: tuple[int, int] | None) -> bool:
        """Set the output size of the last operation that crops, unless it has its own."""
        return any(operation.crop_to(size) for operation in reversed(self.operations))

    def params_of(self, params: Params, i: int) -> Params:
        """Return the parameters of the operation with index `i`."""
        prefix = f"{i}."
        return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Apply drawn parameters to images (N, C, H, W)."""
        images = in_layout(check_images(images))
        by_operation = [self.params_of(params, i) for i in range(len(self.operations))]
        if images.device.type == "cpu" and (count := self._leading_crops((images.shape[2], images.shape[3]))):
            images = _apply(self.operations[:count], images, by_operation[:count])
            return _apply(self.operations[count:], images, by_operation[count:])
        return _apply(self.operations, images, by_operation)

    def move_masks(self, masks: Tensor, params: Params, fill: int = IGNORE_INDEX) -> Tensor:
        """Move masks (N, H, W) like the images; see `Geometric.move_masks`."""
        for i, operation in enumerate(self.operations):
            if operation.moves_pixels:
                masks = _geometric(operation).move_masks(masks, self.params_of(params, i), fill)
        return masks

    def move_object_masks(self, masks: Sequence[Tensor], params: Params) -> list[Tensor]:
        """Move the masks of objects like the images; pixels from beyond the edges belong to no object.

        Args:
            masks: For each of N images (k, H, W), bool or an integer dtype; k may be 0 and differ.
            params: Parameters drawn for the images.

        Example:
            >>> from lit_cv.augment import HorizontalFlip
            >>> chain = Chain([HorizontalFlip(p=1.0)])
            >>> params = chain.draw(torch.zeros(1, 3, 1, 3))
            >>> chain.move_object_masks([torch.tensor([[[True, False, False]]])], params)
            [tensor([[[False, False,  True]]])]
        """
        if not masks:
            return []
        height, width = masks[0].shape[1:]
        pixels = torch.arange(height * width, device=masks[0].device).view(1, height, width)
        sources = self.move_masks(pixels.repeat(len(masks), 1, 1), params, fill=-1)
        moved = [each.flatten(1)[:, source.clamp_min(0)] for each, source in zip(masks, sources, strict=True)]
        return [each.masked_fill_(source < 0, 0) for each, source in zip(moved, sources, strict=True)]

    def move_boxes(
        self, boxes: Sequence[Tensor], params: Params, size: tuple[int, int], min_visible: float = 0.25
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Move boxes like the images of `size`; see `geometry.move_boxes`."""
        moved = list(boxes)
        indices = [torch.arange(len(image_boxes), device=image_boxes.device) for image_boxes in moved]
        for i, operation in enumerate(self.operations):
            if operation.moves_pixels:
                operation_params = self.params_of(params, i)
                moved, keep = _geometric(operation).move_boxes(moved, operation_params, size, min_visible)
                indices = [index[mask] for index, mask in zip(indices, keep, strict=True)]
            size = operation.output_size(size)
        kept = [torch.zeros(len(image_boxes), dtype=torch.bool, device=image_boxes.device) for image_boxes in boxes]
        for mask, index in zip(kept, indices, strict=True):
            mask[index] = True
        return moved, kept

    def _draw(self, n: int, size: tuple[int, int]) -> Params:
        params: Params = {}
        for i, operation in enumerate(self.operations):
            params |= {f"{i}.{name}": value for name, value in operation.draw_for(n, size).items()}
            size = operation.output_size(size)
        return params

    def _transform(self, images: Tensor, params: Params) -> Tensor:
        return self.apply(images, params)

    def _leading_crops(self, size: tuple[int, int]) -> int:
        """Return the number of operations up to the first that makes images smaller, 0 if one computes in float32.

        After them, more images fit into the cache together.
        """
        for count, operation in enumerate(self.operations, 1):
            height, width = operation.output_size(size)
            if operation.computes_float:
                return 0
            if height * width < size[0] * size[1]:
                return count
            size = (height, width)
        return 0


def _apply(operations: Sequence[Operation], images: Tensor, params: Sequence[Params]) -> Tensor:
    """Apply operations with drawn parameters to images, on the CPU a few at a time; return new images."""
    n, channels, *size = images.shape
    height, width = Chain(operations).output_size((size[0], size[1]))
    out = torch.empty(
        (n, channels, height, width), dtype=images.dtype, device=images.device, memory_format=memory_layout(images)
    )
    if n and images.device.type != "cpu":
        _run(operations, images, params, out)
    elif n:
        numbers = channels * max(size[0] * size[1], height * width)
        step = 1 if numbers > _LARGE else max(_TOGETHER // numbers, 1)
        split = [{name: torch.split(value, step) for name, value in each.items()} for each in params]
        with one_thread():
            for k, (part, target) in enumerate(zip(torch.split(images, step), torch.split(out, step), strict=True)):
                _run(operations, part, [{name: parts[k] for name, parts in each.items()} for each in split], target)
    return out


def _run(operations: Sequence[Operation], images: Tensor, params: Sequence[Params], out: Tensor) -> None:
    as_bytes = images.dtype == torch.uint8
    owned = False  # whether `images` is a copy that may be overwritten
    for operation, operation_params in zip(operations, params, strict=True):
        before = images
        if operation.computes_float and (images.dtype != torch.float32 or not images.is_contiguous() or not owned):
            images, owned = to_float(images), True
        elif operation.overwrites and not owned:
            images, owned = copied(images), True
        images = operation.transform(images, operation_params)
        owned = owned or images is not before
    if as_bytes and images.dtype != torch.uint8:
        write_bytes(images, out)
    else:
        out.copy_(images)


def _geometric(operation: Operation) -> Geometric | Chain:
    if not isinstance(operation, Geometric | Chain):
        raise TypeError(f"{operation!r} moves pixels but does not support masks and boxes: leave it out.")
    return operation
