"""Similarity of each embedding to all others, the denominator of contrastive losses, in linear memory.

A large similarity matrix is never stored completely. It is computed in strips, which are discarded after use and
computed again in the backward pass. On a single rank, each pair is computed once, because the matrix is symmetric.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from lit_cv.distributed import gather_batches, global_rank, is_distributed

__all__ = ["log_sum_exp_similarity"]

_KEPT = 1 << 20  # largest number of similarities that is kept for the backward pass
_STRIP = 1 << 20  # similarities in one strip
_SAFE = 80.0  # exp(-80) is still above float32's underflow, at exp(-87)


def log_sum_exp_similarity(
    embeddings: Tensor, temperature: float, gather: bool = True, chunk_size: int | None = None
) -> Tensor:
    """Return log(sum_k exp(z_i . z_k / temperature)) over all k other than i, for each embedding i.

    Args:
        embeddings: z, (M, D), float32 or float64, each of length 1 (or 0).
        temperature: Positive.
        gather: Whether k runs over the embeddings of all ranks, which have M each. The gradient is then that of the
            sum of all ranks' results: after the averaging of DDP, it equals that of one rank with all embeddings.
        chunk_size: Number of embeddings compared with all others at a time; `None` chooses.

    Returns:
        (M,). It is differentiable once if gathered from several ranks, otherwise any number of times; a second
        derivative needs memory that grows with M squared.
    """
    return cast(Tensor, _LogSumExp.apply(embeddings, temperature, gather, chunk_size))


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, temperature: float, gather: bool, chunk_size: int | None) -> Tensor:
        ctx.gather = gather and is_distributed()
        ctx.temperature, ctx.chunk_size, ctx.kept = temperature, chunk_size, None
        # Similarities are at most 1, so 1 / temperature can be subtracted in place of the maximum.
        ctx.symmetric = not ctx.gather and 2 / temperature <= _SAFE
        keys = gather_batches(queries) if ctx.gather else queries
        with torch.autocast(queries.device.type, enabled=False):
            if not ctx.symmetric:
                logs = _logs_by_row(queries, keys, ctx)
            elif chunk_size is None and len(queries) ** 2 <= _KEPT:
                ctx.kept = _exponentials(queries, queries, temperature)
                logs = ctx.kept.sum(1).log_().add_(1 / temperature)
            else:
                logs = _symmetric_logs(queries, ctx)
        ctx.save_for_backward(queries, keys, logs)
        return logs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        # With p_ij = exp(s_ij - log_i), the gradient of sum_j g_j log_j for z_i is
        # sum_j (g_i p_ij + g_j p_ji) z_j / temperature.
        queries, keys, logs = ctx.saved_tensors
        if torch.is_grad_enabled():  # with create_graph=True, for a second derivative
            return _differentiable_grad(queries, grad, ctx), None, None, None
        with torch.autocast(queries.device.type, enabled=False):
            if not ctx.symmetric:
                return _grad_by_row(queries, keys, logs, grad, ctx), None, None, None
            weight = grad / ctx.temperature * (1 / ctx.temperature - logs).exp()
            if ctx.kept is None:
                return _symmetric_grad(queries, weight, ctx), None, None, None
            return (ctx.kept * (weight[:, None] + weight)) @ queries, None, None, None


def _differentiable_grad(queries: Tensor, grad: Tensor, ctx: Any) -> Tensor:
    """Return the gradient by differentiable operations."""
    if ctx.gather:
        raise NotImplementedError(
            "second derivatives are not supported for embeddings gathered from several ranks: use gather=False."
        )
    with torch.autocast(queries.device.type, enabled=False):
        similarity = queries @ queries.T / ctx.temperature
        diagonal = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        weighted = grad[:, None] * similarity.masked_fill(diagonal, -torch.inf).softmax(1)
        return cast(Tensor, (weighted + weighted.T) @ queries / ctx.temperature)


def _chunks(rows: int, columns: int, chunk_size: int | None) -> Iterator[tuple[int, int]]:
    size = chunk_size or max(64, min(512, _STRIP // columns))
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


def _exponentials(rows: Tensor, columns: Tensor, temperature: float) -> Tensor:
    """Return exp((z_i . z_k - 1) / temperature) with 0 on the diagonal."""
    bound = rows.new_full((), -1 / temperature)
    part = torch.addmm(bound, rows, columns.T, alpha=1 / temperature).exp_()
    part.diagonal().zero_()
    return part


def _symmetric_logs(queries: Tensor, ctx: Any) -> Tensor:
    sums = torch.zeros_like(queries[:, 0])
    for start, end in _chunks(len(queries), len(queries), ctx.chunk_size):
        part = _exponentials(queries[start:end], queries[start:], ctx.temperature)
        sums[start:end] += part.sum(1)
        sums[end:] += part[:, end - start :].sum(0)
    return sums.log_().add_(1 / ctx.temperature)


def _symmetric_grad(queries: Tensor, weight: Tensor, ctx: Any) -> Tensor:
    grad = torch.zeros_like(queries)
    for start, end in _chunks(len(queries), len(queries), ctx.chunk_size):
        part = _exponentials(queries[start:end], queries[start:], ctx.temperature)
        part.mul_(weight[start:end, None] + weight[start:])
        grad[start:end].addmm_(part, queries[start:])
        grad[end:].addmm_(part[:, end - start :].T, queries[start:end])
    return grad


def _logs_by_row(queries: Tensor, keys: Tensor, ctx: Any) -> Tensor:
    """Subtract the maximum of each row, for temperatures at which a common bound would make exp underflow."""
    offset = global_rank() * len(queries) if ctx.gather else 0
    logs = torch.empty_like(queries[:, 0])
    for start, end in _chunks(len(queries), len(keys), ctx.chunk_size):
        part = (queries[start:end] @ keys.T).mul_(1 / ctx.temperature)
        part.diagonal(offset + start).fill_(-torch.inf)
        logs[start:end] = part.logsumexp(1)
    return logs


def _grad_by_row(queries: Tensor, keys: Tensor, logs: Tensor, weight: Tensor, ctx: Any) -> Tensor:
    offset = global_rank() * len(queries) if ctx.gather else 0
    all_logs, all_weights = (gather_batches(logs), gather_batches(weight)) if ctx.gather else (logs, weight)
    grad = torch.empty_like(queries)
    for start, end in _chunks(len(queries), len(keys), ctx.chunk_size):
        part = (queries[start:end] @ keys.T).mul_(1 / ctx.temperature)
        part.diagonal(offset + start).fill_(-torch.inf)
        mixed = (part - logs[start:end, None]).exp_().mul_(weight[start:end, None])
        mixed += part.sub_(all_logs).exp_().mul_(all_weights)
        grad[start:end] = (mixed @ keys).mul_(1 / ctx.temperature)
    return grad
