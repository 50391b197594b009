"""The LARS optimizer, for large batches."""

from typing import Any

import torch
from torch import Tensor

from lit_cv.errors import OptionError
from lit_cv.optim.layerwise import LayerwiseOptimizer
from lit_cv.optim.optimizers import OPTIMIZERS

__all__ = ["LARS"]


@OPTIMIZERS.add("lars")
class LARS(LayerwiseOptimizer):
    """SGD with a learning rate that is scaled for each layer to the norm of its weights.

    You et al. 2017, "Large Batch Training of Convolutional Networks", algorithm 1: the step of a layer is
    `trust * |w| / (|g| + weight_decay * |w|) * (g + weight_decay * w)`. It is added to a momentum buffer, which is
    multiplied by the learning rate. (MoCo v3 and MAE divide by `|g + weight_decay * w|` instead; the difference is
    below 1e-6 in practice.) A group with `layer_adaptation=False`, such as biases and norms, uses plain SGD. If |w| or
    |g| is 0, the scale is 1.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        momentum: Momentum, in [0, 1).
        weight_decay: Weight decay.
        trust: Trust coefficient, the relative size of a step at `lr=1`.
        layer_adaptation: Whether to scale the learning rate; groups may override it.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = LARS([weight], lr=1.0, momentum=0.0)
        >>> weight.grad = torch.full((2, 2), 7.0)
        >>> optimizer.step()
        >>> weight[0, 0].detach().item()
        0.9990000128746033
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        layer_adaptation: bool = True,
    ) -> None:
        if not trust >= 0:
            raise OptionError(self, "trust", trust, "it must not be negative")
        super().__init__(params, lr, momentum, weight_decay, layer_adaptation, trust=trust)

    def update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Change a parameter by one step, see `LayerwiseOptimizer.update`."""
        decay = group["weight_decay"]
        step = grad.add(weight, alpha=decay) if decay else grad.clone()
        if group["layer_adaptation"]:
            weight_norm, grad_norm = weight.norm(), grad.norm()
            scale = group["trust"] * weight_norm / (grad_norm + decay * weight_norm)
            # `where` avoids a synchronization with the device; it discards 0 / 0.
            step.mul_(torch.where((weight_norm > 0) & (grad_norm > 0), scale, torch.ones_like(scale)))
        if group["momentum"]:
            state = self.state[weight]
            if "momentum_buffer" in state:
                step = state["momentum_buffer"].mul_(group["momentum"]).add_(step)
            else:
                state["momentum_buffer"] = step
        weight.sub_(step, alpha=group["lr"])
