"""Gradient surgery within Lightning's automatic optimization."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lit_cv.distributed import is_distributed
from lit_cv.loop_state import batch_index
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.optim import surgery_backward
from lit_cv.randomness import fixed_seed

__all__ = ["backward_with_surgery"]

_PURPOSE = 7  # distinguishes the projection order from other random draws of a step


def backward_with_surgery(
    module: ExtensionPoints, tasks: Iterable[nn.Module], loss: Tensor, losses: list[Tensor]
) -> Tensor:
    """Backpropagate every loss, and return the weights of the gradients.

    Args:
        module: The module that is trained.
        tasks: Its parts that belong to one loss each.
        loss: The total, as scaled by the Trainer for mixed precision and gradient accumulation.
        losses: The losses of the tasks that the total was computed from.
    """
    task_parameters = [p for task in tasks for p in task.parameters() if p.requires_grad]
    task_ids = {id(parameter) for parameter in task_parameters}
    shared = [p for p in module.parameters() if p.requires_grad and id(p) not in task_ids]
    # The factor of each loss in the total contains all scaling for fp16 and accumulation.
    factors = torch.autograd.grad(loss, losses, retain_graph=True)
    # The same draw on all ranks and in a resumed run.
    with fixed_seed(module.seed or 0, module.current_epoch, batch_index(module.trainer), _PURPOSE):
        average = _average if is_distributed() else None
        return surgery_backward(losses, shared, task_parameters, factors, average=average)


def _average(gradients: Tensor) -> Tensor:
    torch.distributed.all_reduce(gradients)
    return gradients / torch.distributed.get_world_size()
