"""Tensors of all processes that train together, side by side. Pure torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = [
    "full_parameters",
    "gather_batches",
    "gather_rows",
    "gather_with_gradient",
    "global_rank",
    "is_distributed",
    "joined_mean",
    "world_size",
]


def is_distributed() -> bool:
    """Whether several processes work together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def global_rank() -> int:
    """Return which of the processes this is, from 0."""
    return torch.distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return torch.distributed.get_world_size() if is_distributed() else 1


def gather_batches(values: Tensor) -> Tensor:
    """Return the tensors of all processes, one after another by rank, without a gradient.

    Args:
        values: (N, ...), of the same shape on every process.

    Returns:
        (processes * N, ...), on every process.
    """
    if not is_distributed():
        return values
    values = values.detach().contiguous()
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values)
    return torch.cat(parts)


def gather_with_gradient(values: Tensor) -> Tensor:
    """Return the tensors of all processes as `gather_batches` does, with the gradient of every process's use of them.

    A loss of the gathered tensors, computed by each process, then has gradients whose mean over the processes, which
    DistributedDataParallel takes, is that of one process with the joined batch.
    """
    return _Gather.apply(values) if is_distributed() else values


def joined_mean(total: Tensor, count: Tensor, gather: bool) -> tuple[Tensor, Tensor]:
    """Return the mean of a batch, and what its sum was divided by, which is how much it counts in a mean of means.

    Args:
        total: Sum, 0 where the count is.
        count: Number, or sum of weights, of what was added up; not negative.
        gather: Whether all processes call this with a part of one batch each: gradients, averaged over the processes,
            are then those of the mean of the joined batch.
    """
    count = count.detach().to(total.dtype)
    if gather:  # gradients are averaged, which the number of processes makes up for
        count = gather_batches(count.reshape(1)).sum() / world_size()
    return total / count.clamp_min(torch.finfo(total.dtype).tiny), count


def gather_rows(values: Tensor) -> Tensor:
    """Return the rows of all processes, one process after another, without a gradient.

    Args:
        values: (N, ...); N may differ between processes, and be 0.
    """
    if not is_distributed():
        return values
    sizes = gather_batches(torch.tensor([len(values)], device=values.device)).tolist()
    if max(sizes) == 0:
        return values
    padded = values.new_zeros(max(sizes), *values.shape[1:])
    padded[: len(values)] = values
    parts = gather_batches(padded).view(len(sizes), *padded.shape)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


@contextmanager
def full_parameters(model: nn.Module | None) -> Iterator[None]:
    """Give parameters that FSDP keeps in pieces, each of one dimension, the shapes that the network has given them.

    Args:
        model: The network as a strategy wraps it, the same on all processes.
    """
    if not is_distributed() or model is None:
        yield
        return
    from torch.distributed.fsdp import FullyShardedDataParallel  # slow to import

    if not isinstance(model, FullyShardedDataParallel):
        yield
        return
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        yield


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return gather_batches(values)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise NotImplementedError("a second derivative of tensors gathered from other processes is not supported.")
        grad = grad.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(grad)
        own = len(grad) // torch.distributed.get_world_size()
        return grad[global_rank() * own :][:own]
