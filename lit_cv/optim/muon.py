"""The Muon optimizer, for filters as well as matrices."""

import math
from typing import Any

import torch
from torch import Tensor

from lit_cv.optim.layerwise import LayerwiseOptimizer
from lit_cv.optim.optimizers import OPTIMIZERS

__all__ = ["Muon", "orthogonalized"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the published iteration; steepest at 0
_ITERATIONS = 5
_EPSILON = 1e-8


@OPTIMIZERS.add("muon")
class Muon(LayerwiseOptimizer):
    """SGD with momentum whose steps are orthogonalized, layer by layer; AdamW for biases and norms.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". A filter (out, in, h, w) counts as a
    matrix (out, in * h * w). Steps are scaled to the usual size of AdamW's, 0.2 per weight (Liu et al. 2025, "Muon is
    Scalable for LLM Training", section 2.2), so that learning rates and weight decays of AdamW fit. A group with
    `layer_adaptation=False`, such as biases and norms, and vectors are trained by AdamW.

    `torch.optim.Muon` takes matrices only, and both it and timm's compute in bfloat16 everywhere, which most CPUs only
    emulate. This one uses float32 on a CPU.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        momentum: Momentum of orthogonalized steps, in [0, 1).
        weight_decay: Decoupled weight decay.
        betas: Decay rates of the two moments of AdamW.
        layer_adaptation: Whether to orthogonalize the steps; groups may override it.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
        >>> weight.grad = torch.tensor([[3.0, 0.0], [0.0, -3.0]])
        >>> Muon([weight], lr=1.0).step()
        >>> weight.detach().sign().tolist()
        [[-1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        layer_adaptation: bool = True,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, layer_adaptation, betas=betas)

    def update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Change a parameter by one step, see `LayerwiseOptimizer.update`."""
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        orthogonalizes = group["layer_adaptation"] and weight.ndim > 1
        (self._orthogonal_step if orthogonalizes else self._adam_step)(weight, grad, group)

    def _orthogonal_step(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[weight], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        direction = grad.lerp(average, momentum).flatten(1)  # Nesterov's
        scale = 0.2 * math.sqrt(max(direction.shape))
        weight.sub_(orthogonalized(direction).view(weight.shape), alpha=group["lr"] * scale)

    def _adam_step(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[weight], group["betas"]
        if "step" not in state:
            state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight)}
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        steps = int(state["step"])
        mean, square = state["exp_avg"].lerp_(grad, 1 - first), state["exp_avg_sq"]
        square.mul_(second).addcmul_(grad, grad, value=1 - second)
        size = (square / (1 - second**steps)).sqrt_().add_(_EPSILON)
        weight.addcdiv_(mean, size, value=-group["lr"] / (1 - first**steps))


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return nearly the closest matrix with orthonormal rows or columns, by Newton-Schulz iterations.

    Singular values of the result are between about 0.7 and 1.2 unless they are tiny fractions of the matrix.

    Args:
        matrix: (m, n), floating point.

    Returns:
        (m, n), of the same dtype.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.T if x.shape[0] > x.shape[1] else wide).to(matrix.dtype)
