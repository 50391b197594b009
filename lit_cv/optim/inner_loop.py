"""The inner loop of MAML: differentiable gradient steps."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["inner_loop"]


def inner_loop(
    loss: Callable[[dict[str, Tensor]], Tensor],
    parameters: Mapping[str, Tensor],
    rates: Mapping[str, Tensor | float],
    steps: int,
    first_order: bool = False,
) -> dict[str, Tensor]:
    """Return the parameters after gradient descent, as a differentiable function of the initial ones.

    The outer gradient includes second derivatives through the steps (Finn et al. 2017, equation 1). With
    `first_order`, it treats the inner gradients as constants (section 5.2), also with respect to other inputs of the
    loss, such as the features that a head is applied to. If gradients are disabled outside, no graph is kept.

    Args:
        loss: Function of the parameters.
        parameters: The parameters by name.
        rates: Learning rate of each parameter, a number or a tensor that receives an outer gradient.
        steps: Number of steps.
        first_order: Whether to ignore second derivatives.

    Example:
        >>> w = torch.tensor(1.0, requires_grad=True)
        >>> after = inner_loop(lambda p: p["w"] ** 2, {"w": w}, {"w": 0.1}, steps=1)["w"]
        >>> after.detach().item(), torch.autograd.grad(after, w)[0].item()  # w - 0.1 * 2 w, and its slope 0.8
        (0.800000011920929, 0.800000011920929)
    """
    current = dict(parameters)
    for _ in range(steps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):  # for the outer gradient
            gradients = torch.func.grad(loss)(current)
        current = {name: value - rates[name] * gradients[name] for name, value in current.items()}
    return current
