"""Tensors of all processes that train together, side by side. Pure torch."""

import torch
from torch import Tensor

__all__ = ["gather_batches", "gather_rows", "is_distributed", "process_rank"]


def is_distributed() -> bool:
    """Whether several processes work together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def process_rank() -> int:
    """Return which of the processes this is, from 0."""
    return torch.distributed.get_rank() if is_distributed() else 0


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
