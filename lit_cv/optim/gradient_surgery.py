"""Gradient surgery (PCGrad): removal of conflicts between the gradients of several tasks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["projection_weights", "surgery_backward"]


def projection_weights(gram: Tensor, order: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Return the factor of each task's gradient in the sum of the conflict-free gradients.

    PCGrad (Yu et al. 2020, algorithm 1) projects the gradient of each task onto the normal plane of every other task's
    gradient with which its inner product is negative, one after another, and sums the results. The sum is a linear
    combination of the gradients, so their inner products are sufficient to compute its factors.

    Args:
        gram: (K, K) inner products of the gradients of K tasks.
        order: For each task, the other tasks in the order of projection; `None` draws it from torch's default
            generator, as in the paper.

    Returns:
        (K,) float64, each at least 1.

    Example:
        >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        >>> weights = projection_weights(gradients @ gradients.T)
        >>> weights, weights.float() @ gradients
        (tensor([2.0000, 1.5000], dtype=torch.float64), tensor([0.5000, 1.5000]))
    """
    products: list[list[float]] = gram.double().tolist()
    tasks = range(len(products))
    if order is None:
        order = [[j for j in torch.randperm(len(products)).tolist() if j != i] for i in tasks]
    weights = [0.0 for _ in tasks]
    for i in tasks:
        mixture = [float(j == i) for j in tasks]  # factors of all gradients in the projected gradient i
        for j in order[i]:
            product = sum(mixture[k] * products[k][j] for k in tasks)
            if product < 0:
                mixture[j] -= product / products[j][j]
        weights = [weight + part for weight, part in zip(weights, mixture, strict=True)]
    return torch.tensor(weights, dtype=torch.float64)


def surgery_backward(
    losses: Sequence[Tensor],
    shared: Sequence[nn.Parameter],
    own: Sequence[nn.Parameter],
    factors: Sequence[Tensor] | None = None,
    order: Sequence[Sequence[int]] | None = None,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Add the conflict-free gradients of several losses to the `grad` of the parameters.

    Use it in place of `sum(losses).backward()`. It runs one backward pass for every loss.

    Args:
        losses: A scalar for each task.
        shared: Parameters shared by tasks, whose gradients may conflict.
        own: All other parameters; their gradients are summed unchanged.
        factors: Scalar factors of the gradients of the losses, for loss scaling.
        order: See `projection_weights`.
        average: Function that averages a tensor over all ranks, if there are several.

    Returns:
        (K,), the factor of each task's gradient.

    Example:
        >>> shared, head = nn.Parameter(torch.tensor([1.0, 1.0])), nn.Parameter(torch.tensor(2.0))
        >>> losses = [head * shared[0], shared[1] - shared[0]]
        >>> weights = surgery_backward(losses, [shared], [head])
        >>> shared.grad, head.grad
        (tensor([1., 2.]), tensor(1.))
    """
    parameters = [*shared, *own]
    shared_rows: list[Tensor] = []
    own_rows: list[Tensor] = []
    for index, loss in enumerate(losses):
        start = None if factors is None else factors[index]
        raw = torch.autograd.grad(loss, parameters, start, retain_graph=index < len(losses) - 1, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, raw, strict=True)]
        shared_rows.append(_flatten(filled[: len(shared)], loss))
        own_rows.append(_flatten(filled[len(shared) :], loss))
    gradients, others = torch.stack(shared_rows), torch.stack(own_rows).sum(0)
    if average is not None:
        gradients, others = average(gradients), average(others)
    exact = gradients if gradients.dtype == torch.float64 else gradients.float()
    weights = projection_weights(exact @ exact.T, order)
    _add(shared, weights.to(exact) @ exact)
    _add(own, others)
    return weights.to(exact)


def _flatten(gradients: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat([like.new_zeros(0), *(gradient.reshape(-1) for gradient in gradients)])


def _add(parameters: Sequence[nn.Parameter], flat: Tensor) -> None:
    parts = torch.split(flat, [p.numel() for p in parameters]) if parameters else ()
    for parameter, part in zip(parameters, parts, strict=True):
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)  # keeps the memory format of the parameter
            parameter.grad.copy_(part.view(parameter.shape))
        else:
            parameter.grad.add_(part.view(parameter.shape))
