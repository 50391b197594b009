"""The inner loop of MAML: gradient steps that an outer gradient goes through."""

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
    """Return parameters after some steps of gradient descent, as a function of where they started.

    The outer gradient goes through the steps, second derivatives included (Finn et al. 2017, equation 1); with
    `first_order` the inner gradients count as constants there (section 5.2), also in what else the loss depends on,
    such as features that the parameters of a head are applied to. Where no gradient is recorded outside, nothing of
    the steps is kept.

    Args:
        loss: Function of the parameters.
        parameters: The parameters by name.
        rates: Learning rate of each, a number or a tensor that the outer gradient goes to.
        steps: Number of steps.
        first_order: Whether second derivatives are left out.

    Example:
        >>> w = torch.tensor(1.0, requires_grad=True)
        >>> after = inner_loop(lambda p: p["w"] ** 2, {"w": w}, {"w": 0.1}, steps=1)["w"]
        >>> after.detach().item(), torch.autograd.grad(after, w)[0].item()  # w - 0.1 * 2 w, and its slope 0.8
        (0.800000011920929, 0.800000011920929)
    """
    current = dict(parameters)
    for _ in range(steps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):  # of the outer gradient alone
            gradients = torch.func.grad(loss)(current)
        current = {name: value - rates[name] * gradients[name] for name, value in current.items()}
    return current
