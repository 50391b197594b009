"""The base class of optimizers that compute their steps layer by layer."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_cv.errors import OptionError

__all__ = ["LayerwiseOptimizer"]


class LayerwiseOptimizer(Optimizer):
    """Base of optimizers whose step of a parameter depends on its whole layer. A subclass implements `update`.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        momentum: Momentum, in [0, 1).
        weight_decay: Weight decay.
        layer_adaptation: Whether to adapt steps to their layer; groups such as biases and norms may override it.
        **defaults: Further options of the groups.

    Raises:
        ValueError: If a value is out of range.
    """

    scales_layers: ClassVar[bool] = True

    def __init__(
        self, params: Any, lr: float, momentum: float, weight_decay: float, layer_adaptation: bool, **defaults: Any
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise OptionError(self, name, value, "it must not be negative")
        if not 0 <= momentum < 1:
            raise OptionError(self, "momentum", momentum, "must be a value in [0, 1)")
        common = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "layer_adaptation": layer_adaptation}
        super().__init__(params, common | defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step, after computing the loss and its gradients with `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(weight, weight.grad, group)
        return loss

    @abstractmethod
    def update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Change a parameter in place.

        Args:
            weight: The parameter.
            grad: Its gradient, which must not be changed.
            group: Options of its group; the state of the parameter is `self.state[weight]`.
        """
