"""Gradient reversal: layers before it are trained to maximize the loss that layers behind it minimize."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["reverse_gradient"]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * -ctx.scale, None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """Return `x` unchanged; in the backward pass, its gradient is multiplied by `-scale` (Ganin et al. 2016, sec. 4.2).

    Args:
        x: Features of any shape.
        scale: The paper's lambda, at least 0.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    return _Reverse.apply(x, scale)  # type: ignore[no-any-return]
