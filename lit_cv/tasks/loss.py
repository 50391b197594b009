"""Loss of a batch as sums over images, which can be added over ranks."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TaskLoss", "joined_losses", "ratio"]


class TaskLoss(NamedTuple):
    """The loss of a batch in a form that can be added over ranks.

    Attributes:
        parts: A sum over images, a tensor of any shape, and its count for each term of the loss; `BaseTask.term`
            computes the term from both.
        images: Number of images with a target.
    """

    parts: dict[str, tuple[Tensor, float | Tensor]]
    images: float | Tensor


def ratio(total: Tensor, count: float | Tensor, least: float = 0.0) -> Tensor:
    """Return a sum divided by its count, or by `least` if the count is less; 0 for a sum over nothing.

    Example:
        >>> ratio(torch.tensor(6.0), 3), ratio(torch.tensor(0.0), torch.tensor(0))
        (tensor(2.), tensor(0.))
    """
    if not isinstance(count, Tensor):
        return total / (max(count, least) or 1)
    return total / count.detach().to(total.dtype).clamp_min(least or torch.finfo(total.dtype).tiny)


def joined_losses(losses: Mapping[str, TaskLoss]) -> dict[str, TaskLoss]:
    """Return the losses of a batch distributed over all ranks, which must call this with the same names.

    The values are those of the joined batch. So are the gradients once they are averaged over the ranks, as in
    DistributedDataParallel.
    """
    world = torch.distributed.get_world_size()
    local = [value for loss in losses.values() for pair in (*loss.parts.values(), (loss.images,)) for value in pair]
    device = next(value.device for value in local if isinstance(value, Tensor))
    dtype = torch.float32 if device.type == "mps" else torch.float64
    flat = [torch.as_tensor(value, dtype=dtype, device=device).detach().reshape(-1) for value in local]
    totals = torch.cat(flat)
    torch.distributed.all_reduce(totals)
    sums = iter(torch.split(totals, [len(values) for values in flat]))
    joined = {}
    for name, loss in losses.items():
        parts: dict[str, tuple[Tensor, float | Tensor]] = {}
        for part, (total, _) in loss.parts.items():
            value = next(sums).view_as(total).to(total.dtype)
            # Averaging the gradients divides this rank's contribution by the number of ranks.
            parts[part] = (value + world * (total - total.detach()), next(sums)[0].to(total.dtype))
        joined[name] = TaskLoss(parts, next(sums)[0])
    return joined
