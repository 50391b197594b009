"""Gathering tensors across ranks. Pure torch."""

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
    """Return whether there is more than one rank."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def global_rank() -> int:
    """Return the rank of this process, from 0."""
    return torch.distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return torch.distributed.get_world_size() if is_distributed() else 1


def gather_batches(values: Tensor) -> Tensor:
    """Concatenate the tensors of all ranks in the order of the ranks, without a gradient.

    Args:
        values: (N, ...), of the same shape on every rank.

    Returns:
        (ranks * N, ...), on every rank.
    """
    if not is_distributed():
        return values
    values = values.detach().contiguous()
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values)
    return torch.cat(parts)


def gather_with_gradient(values: Tensor) -> Tensor:
    """Concatenate the tensors of all ranks like `gather_batches`, and sum the gradients that every rank returns.

    If each rank computes a loss of the gathered tensors, the mean of the gradients over the ranks, which
    DistributedDataParallel takes, equals the gradient of one process with the joined batch.
    """
    return _Gather.apply(values) if is_distributed() else values


def joined_mean(total: Tensor, count: Tensor, gather: bool) -> tuple[Tensor, Tensor]:
    """Return the mean of a batch and its divisor, which is the weight of this mean in a mean over batches.

    Args:
        total: Sum of the values; 0 if the count is 0.
        count: Number of values, or sum of their weights; not negative.
        gather: Whether each rank calls this with its part of one batch. Gradients averaged over the ranks are then
            those of the mean over the joined batch.
    """
    count = count.detach().to(total.dtype)
    if gather:  # dividing by the mean count per rank makes up for the averaging of gradients over ranks
        count = gather_batches(count.reshape(1)).sum() / world_size()
    return total / count.clamp_min(torch.finfo(total.dtype).tiny), count


def gather_rows(values: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in the order of the ranks, without a gradient.

    Args:
        values: (N, ...); N may differ between ranks, and be 0.
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
    """Restore the original shapes of parameters that FSDP flattens and shards, while the context is open.

    Args:
        model: The network as a strategy wraps it, the same on all ranks.
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
            raise NotImplementedError("second derivatives of tensors gathered from other ranks are not supported.")
        grad = grad.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(grad)
        size = len(grad) // torch.distributed.get_world_size()
        return grad[global_rank() * size :][:size]
