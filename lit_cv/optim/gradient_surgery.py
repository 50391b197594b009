"""Gradients of several tasks without their conflicts."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["projection_weights", "surgery_backward"]


def projection_weights(gram: Tensor, order: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Return by what each task's gradient is multiplied in the sum of the gradients freed from conflicts.

    PCGrad (Yu et al. 2020, algorithm 1) takes from the gradient of each task, one after another, its component
    against the gradient of every other task that it conflicts with (whose inner product with what is left of it is
    negative), and adds up what remains. The result lies in the span of the gradients, hence their inner products
    are all that has to be known.

    Args:
        gram: (K, K) inner products of the gradients of K tasks.
        order: For each task the others in the order of projection; `None` draws it at random from torch's default
            generator, as the paper does.

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
        mixture = [float(j == i) for j in tasks]  # what is left of gradient i, in terms of all gradients
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
    """Add to `grad` of the parameters the gradients of several losses, conflicts among them removed.

    It takes the place of `sum(losses).backward()`, and goes through the network once for every loss.

    Args:
        losses: A scalar for each task.
        shared: Parameters that tasks share, whose gradients may conflict.
        own: All others; their gradients are added up as they are.
        factors: Scalars that the gradients of the losses are multiplied by, for scaled losses.
        order: See `projection_weights`.
        average: Averages a tensor over the processes that train together, where there are several.

    Returns:
        (K,), by what each task's gradient was multiplied.

    Example:
        >>> shared, head = nn.Parameter(torch.tensor([1.0, 1.0])), nn.Parameter(torch.tensor(2.0))
        >>> losses = [head * shared[0], shared[1] - shared[0]]
        >>> weights = surgery_backward(losses, [shared], [head])
        >>> shared.grad, head.grad
        (tensor([1., 2.]), tensor(1.))
    """
    parameters = [*shared, *own]
    rows: list[Tensor] = []
    rest: list[Tensor] = []
    for index, loss in enumerate(losses):
        start = None if factors is None else factors[index]
        found = torch.autograd.grad(loss, parameters, start, retain_graph=index < len(losses) - 1, allow_unused=True)
        whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        rows.append(_flatten(whole[: len(shared)], loss))
        rest.append(_flatten(whole[len(shared) :], loss))
    gradients, others = torch.stack(rows), torch.stack(rest).sum(0)
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
            parameter.grad = torch.empty_like(parameter)  # in the parameter's own memory format
            parameter.grad.copy_(part.view(parameter.shape))
        else:
            parameter.grad.add_(part.view(parameter.shape))
