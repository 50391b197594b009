"""L-BFGS for a batch of smooth convex functions. Pure torch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["minimize_batch"]

_REFRESH = (0, 3, 10, 30)  # iterations that recompute the curvature, as do all multiples of the last
_HISTORY = 10  # pairs of steps and gradient changes that are kept
_HALVINGS = 12  # maximum number of halvings of a step that does not decrease the function enough


def minimize_batch(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    curvature: Callable[[Tensor], Tensor],
    start: Tensor,
    limit: Tensor,
    max_iterations: int,
) -> Tensor:
    """Minimize P functions by L-BFGS with backtracking (Nocedal and Wright 2006, section 7.2).

    Args:
        evaluate: Returns the values (P,) and the gradients (P, K, R) at (P, K, R).
        curvature: Returns the diagonals of the Hessians (P, K, R), the initial Hessian approximation.
        start: Starting points (P, K, R).
        limit: Gradient norm (P,) at which each search stops.
        max_iterations: Maximum number of steps.

    Returns:
        The minima (P, K, R).
    """
    point = start
    value, gradient = evaluate(point)
    going = torch.ones_like(limit, dtype=torch.bool)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for iteration in range(max_iterations):
        going &= gradient.flatten(1).norm(dim=1) > limit
        if not going.any():
            break
        if iteration in _REFRESH or iteration % _REFRESH[-1] == 0:
            inverse = 1 / curvature(point).clamp(min=1e-12)
        direction = -_times_inverse(gradient, steps, inverse)
        slope = _dot(direction, gradient)
        length = going.to(point.dtype)
        for _ in range(_HALVINGS):
            candidate = point + _column(length) * direction
            new_value, new_gradient = evaluate(candidate)
            enough = (new_value <= value + 1e-4 * length * slope) | (length == 0)
            if enough.all():
                break
            length = torch.where(enough, length, length / 2)
        going &= enough  # for the others, any further decrease is below the rounding error
        step = torch.where(_column(going), candidate - point, 0)
        change = torch.where(_column(going), new_gradient - gradient, 0)
        bend = _dot(step, change)
        steps = [*steps[1 - _HISTORY :], (step, change, torch.where(bend > 0, 1 / bend, 0))]
        point = point + step
        value = torch.where(going, new_value, value)
        gradient = gradient + change
    return point


def _times_inverse(gradient: Tensor, steps: Sequence[tuple[Tensor, Tensor, Tensor]], diagonal: Tensor) -> Tensor:
    """Return the approximate inverse Hessians, from the last steps, times the gradients."""
    result, factors = gradient, []
    for step, change, inverse in reversed(steps):
        factor = inverse * _dot(step, result)
        result = result - _column(factor) * change
        factors.append(factor)
    result = result * diagonal
    for (step, change, inverse), factor in zip(steps, reversed(factors), strict=True):
        result = result + _column(factor - inverse * _dot(change, result)) * step
    return result


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum((1, 2))


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)
