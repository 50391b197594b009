"""Gradient surgery, compared with the published algorithm."""

import pytest
import torch
from torch import Tensor, nn

from lit_cv.optim import projection_weights, surgery_backward


def published(gradients: Tensor, order: list[list[int]]) -> Tensor:
    """Return the result of algorithm 1 of Yu et al. 2020, computed on vectors."""
    total = torch.zeros_like(gradients[0])
    for i, own in enumerate(gradients):
        projected = own.clone()
        for j in order[i]:
            product = projected @ gradients[j]
            if product < 0:
                projected = projected - product / (gradients[j] @ gradients[j]) * gradients[j]
        total += projected
    return total


@pytest.mark.parametrize("seed", range(6))
def test_equals_published_algorithm(seed: int) -> None:
    torch.manual_seed(seed)
    gradients = torch.randn(5, 4, dtype=torch.float64)  # five gradients in four dimensions have many conflicts
    gradients[2] *= 1e4
    order = [[j for j in torch.randperm(5).tolist() if j != i] for i in range(5)]
    weights = projection_weights(gradients @ gradients.T, order)
    assert (weights >= 1).all()
    assert (weights > 1).any() == (gradients @ gradients.T < 0).any()
    torch.testing.assert_close(weights @ gradients, published(gradients, order), rtol=1e-9, atol=1e-9)


def test_without_conflicts_equals_sum() -> None:
    gradients = torch.rand(3, 7)
    assert projection_weights(gradients @ gradients.T).tolist() == [1.0, 1.0, 1.0]
    assert projection_weights(torch.zeros(2, 2)).tolist() == [1.0, 1.0]


def test_result_conflicts_with_no_task() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        gradients = torch.randn(2, 6, dtype=torch.float64)
        freed = projection_weights(gradients @ gradients.T) @ gradients
        assert (gradients @ freed > -1e-9).all()


def network() -> tuple[nn.Module, list[nn.Module], list[Tensor]]:
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.Flatten())
    body = body.double().to(memory_format=torch.channels_last)
    heads: list[nn.Module] = [nn.Linear(4 * 16, 1).double() for _ in range(3)]
    features = body(torch.randn(5, 2, 8, 8, dtype=torch.float64))
    losses = [(head(features) - target).square().mean() for head, target in zip(heads, (5.0, -5.0, 20.0), strict=True)]
    return body, heads, losses


def test_surgery_backward_sets_gradients() -> None:
    body, heads, losses = network()
    shared, own = list(body.parameters()), [p for head in heads for p in head.parameters()]
    alone = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
    gradients = torch.stack([torch.cat([g.reshape(-1) for g in found]) for found in alone])
    plain = torch.autograd.grad(torch.stack(losses).sum(), own, retain_graph=True)
    order = [[2, 1], [0, 2], [1, 0]]
    half = [torch.tensor(0.5, dtype=torch.float64)] * 3
    weights = surgery_backward(losses, shared, own, half, order)
    assert (weights > 1).any()
    expected = 0.5 * published(gradients, order)
    found = torch.cat([p.grad.reshape(-1) for p in body.parameters()])  # type: ignore[union-attr]
    torch.testing.assert_close(found, expected)
    for head, wanted in zip([p for h in heads for p in h.parameters()], plain, strict=True):
        torch.testing.assert_close(head.grad, 0.5 * wanted)
    conv = next(body.parameters())
    assert conv.grad is not None
    assert conv.grad.stride() == conv.stride()  # fused optimizers require the memory format of the parameter


def test_gradients_accumulate() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.tensor([10.0, 20.0])
    surgery_backward([weight[0] * 3, weight[1] * 4], [weight], [])
    assert weight.grad.tolist() == [13.0, 24.0]


def test_parameter_unused_by_a_loss() -> None:
    a, b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    surgery_backward([2 * a, a * 0 + 3.0], [a, b], [])
    assert (float(a.grad), float(b.grad)) == (2.0, 0.0)  # type: ignore[arg-type]


def test_gradients_are_averaged_over_ranks_first() -> None:
    a = nn.Parameter(torch.tensor([1.0, 0.0]))
    seen = []

    def average(gradients: Tensor) -> Tensor:
        seen.append(gradients.clone())
        return gradients * 2

    surgery_backward([a[0], a[1]], [a], [], average=average)
    assert [tuple(part.shape) for part in seen] == [(2, 2), (0,)]
    assert a.grad is not None
    assert a.grad.tolist() == [2.0, 2.0]
