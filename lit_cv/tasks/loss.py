"""The loss of a batch as sums over its images, which several processes bring together."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TaskLoss", "joined_losses", "ratio"]


class TaskLoss(NamedTuple):
    """The loss of a batch in a form that several processes can bring together.

    Attributes:
        parts: For each term of the loss a sum over images, a tensor of any shape, and how much it is a sum of;
            `BaseTask.term` makes the term of the two.
        images: Images that had a target.
    """

    parts: dict[str, tuple[Tensor, float | Tensor]]
    images: float | Tensor


def ratio(total: Tensor, count: float | Tensor, least: float = 0.0) -> Tensor:
    """Return a mean: a sum divided by how much it is a sum of, at least `least`; 0 for a sum of nothing.

    Example:
        >>> ratio(torch.tensor(6.0), 3), ratio(torch.tensor(0.0), torch.tensor(0))
        (tensor(2.), tensor(0.))
    """
    if not isinstance(count, Tensor):
        return total / (max(count, least) or 1)
    return total / count.detach().to(total.dtype).clamp_min(least or torch.finfo(total.dtype).tiny)


def joined_losses(losses: Mapping[str, TaskLoss]) -> dict[str, TaskLoss]:
    """Return the losses of a batch of which every process holds a part; each of them calls this with the same names.

    Their values are those of the joined batch, and so are their gradients once they are averaged over the processes, as
    DistributedDataParallel does.
    """
    world = torch.distributed.get_world_size()
    own = [value for loss in losses.values() for pair in (*loss.parts.values(), (loss.images,)) for value in pair]
    device = next(value.device for value in own if isinstance(value, Tensor))
    dtype = torch.float32 if device.type == "mps" else torch.float64
    flat = [torch.as_tensor(value, dtype=dtype, device=device).detach().reshape(-1) for value in own]
    joined = torch.cat(flat)
    torch.distributed.all_reduce(joined)
    sums = iter(torch.split(joined, [len(values) for values in flat]))
    found = {}
    for name, loss in losses.items():
        parts: dict[str, tuple[Tensor, float | Tensor]] = {}
        for part, (total, _) in loss.parts.items():
            value = next(sums).view_as(total).to(total.dtype)
            # What this process adds to the gradient is divided by the number of processes when they are averaged.
            parts[part] = (value + world * (total - total.detach()), next(sums)[0].to(total.dtype))
        found[name] = TaskLoss(parts, next(sums)[0])
    return found
