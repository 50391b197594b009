"""Gradient surgery in Lightning's automatic optimisation."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lit_cv.distributed import is_distributed
from lit_cv.loop_state import batch_index
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.optim import surgery_backward
from lit_cv.randomness import fixed_seed

__all__ = ["operate"]

_PURPOSE = 7  # tells the order of projection apart from other draws of the same step


def operate(module: ExtensionPoints, tasks: Iterable[nn.Module], loss: Tensor, losses: list[Tensor]) -> Tensor:
    """Go backwards from every loss, and return the weights of the gradients.

    Args:
        module: Whose parameters learn.
        tasks: The parts of it that belong to one loss each.
        loss: The total, as the Trainer has scaled it for mixed precision and gradient accumulation.
        losses: Those of the tasks, which it was made of.
    """
    own = [p for task in tasks for p in task.parameters() if p.requires_grad]
    apart = {id(parameter) for parameter in own}
    shared = [p for p in module.parameters() if p.requires_grad and id(p) not in apart]
    # By what each loss is multiplied in the total: its scale for fp16 and accumulation, whatever that is.
    factors = torch.autograd.grad(loss, losses, retain_graph=True)
    # The same draw on every process, and in a run that is resumed.
    with fixed_seed(module.seed or 0, module.current_epoch, batch_index(module.trainer), _PURPOSE):
        return surgery_backward(losses, shared, own, factors, average=_average if is_distributed() else None)


def _average(gradients: Tensor) -> Tensor:
    torch.distributed.all_reduce(gradients)
    return gradients / torch.distributed.get_world_size()
