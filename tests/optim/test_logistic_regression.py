"""The solved classifier against scikit-learn's, against the formula, and its choice of the strength."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lit_cv.optim import fit_logistic_regression, search_strength


def blobs(n: int, d: int, classes: int, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return features of very different scales, off the origin, and labels, some classes rarer than others."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(n, generator=generator).square() * classes).long()
    labels[:classes] = torch.arange(classes)
    centers = torch.randn(classes, d, generator=generator) * spread
    noise = torch.randn(n, d, generator=generator)
    return (centers[labels] + noise) * torch.logspace(0.5, -0.5, d) + 5, labels


@pytest.mark.parametrize(("n", "d", "classes"), [(200, 12, 4), (60, 150, 5), (80, 8, 2)])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_it_is_scikit_learns(n: int, d: int, classes: int, strength: float) -> None:
    features, labels = blobs(n, d, classes)
    found = fit_logistic_regression(features, labels, strength)
    centered = (features - features.mean(0)).double().numpy()  # where scikit-learn's own search converges
    if classes == 2:  # its one column of weights is the difference of our two, whose penalty is half of its own
        strength *= 2
    expected: Any = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8).fit(centered, labels.numpy())
    weight = found.weight.diff(dim=0) if classes == 2 else found.weight
    torch.testing.assert_close(weight.double(), torch.tensor(expected.coef_), atol=1e-3, rtol=1e-3)


def objective(features: Tensor, target: Tensor, weight: Tensor, bias: Tensor, strength: float) -> Tensor:
    logits = features @ weight.T + bias
    if target.ndim == 1:
        loss = F.cross_entropy(logits, target, reduction="sum")
    else:
        known = ~target.isnan()
        loss = F.binary_cross_entropy_with_logits(logits[known], target[known], reduction="sum")
    return strength * loss + weight.square().sum() / 2


@pytest.mark.parametrize("kind", ["one label", "several labels", "unknown labels"])
def test_the_gradient_of_the_formula_is_zero_there(kind: str) -> None:
    features, labels = blobs(150, 20, 4)
    features, target = features.double(), labels
    if kind != "one label":
        target = (torch.rand(150, 4, generator=torch.Generator().manual_seed(1)) < 0.3).double()
    if kind == "unknown labels":
        target[::3, 1] = math.nan
    found = fit_logistic_regression(features, target, 0.1, tolerance=1e-9)
    parts = [part.clone().requires_grad_() for part in found]
    start = [torch.zeros_like(part).requires_grad_() for part in found]
    gradients, before = (
        torch.autograd.grad(objective(features, target, weight, bias, 0.1), (weight, bias))
        for weight, bias in (parts, start)
    )
    for gradient, first in zip(gradients, before, strict=True):
        assert gradient.norm() < 1e-6 * first.norm()


def test_the_strength_lies_between_that_of_the_loss_and_that_of_the_accuracy() -> None:
    features, labels = blobs(300, 60, 3, spread=0.15)
    found = search_strength(features, labels)
    tried, losses, accuracies = list(found.losses), list(found.losses.values()), list(found.accuracies.values())
    lowest, highest = losses.index(min(losses)), accuracies.index(max(accuracies))
    assert found.strength == tried[(lowest + highest) // 2]
    assert 0 < lowest < len(losses) - 1
    assert losses[: lowest + 1] == sorted(losses[: lowest + 1], reverse=True)
    new, truth = (part[150:] for part in blobs(300, 60, 3, spread=0.15))
    old = [part[:150] for part in (features, labels)]
    accuracy = {}
    for strength in (1e-6, search_strength(old[0], old[1]).strength, 1e3):
        weight, bias = fit_logistic_regression(old[0], old[1], strength)
        accuracy[strength] = float(((new @ weight.T + bias).argmax(1) == truth).float().mean())
    weakest, chosen, strongest = accuracy.values()
    assert chosen >= max(weakest, strongest)


def test_it_does_not_depend_on_the_order_of_features_or_on_their_scale() -> None:
    features, labels = blobs(200, 12, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    one, two = (search_strength(values, labels) for values in (features, features[:, order] * 8))
    assert one.strength == pytest.approx(two.strength * 64, rel=1e-4)
    assert list(one.losses.values()) == pytest.approx(list(two.losses.values()), rel=1e-3)


def test_few_images() -> None:
    features = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    single = search_strength(features, torch.tensor([0, 1, 2]))
    assert single.losses == {}
    weight, bias = fit_logistic_regression(features, torch.tensor([0, 1, 2]), single.strength)
    assert (features @ weight.T + bias).argmax(1).tolist() == [0, 1, 2]
    pair = search_strength(torch.cat([features, features + 0.1]), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert len(pair.losses) > 1
    same = fit_logistic_regression(torch.ones(4, 3), torch.tensor([0, 0, 0, 1]), 1.0)
    torch.testing.assert_close(same.weight, torch.zeros(2, 3))
    assert same.bias.softmax(0)[0].item() == pytest.approx(0.75, abs=1e-4)
    absent = fit_logistic_regression(features, torch.tensor([0, 1, 0]), num_classes=5)
    assert absent.weight.shape == (5, 2)


@pytest.mark.parametrize(
    ("features", "target", "options", "message"),
    [
        (torch.ones(3, 2), torch.zeros(4, dtype=torch.int64), {}, "features \\(3, 2\\) for 4 targets"),
        (torch.ones(3, 2), torch.zeros(3), {}, "give \\(N,\\) integers"),
        (torch.full((3, 2), math.nan), torch.zeros(3, dtype=torch.int64), {}, "NaN or infinity"),
        (torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), {"strength": 0.0}, "strength=0.0"),
    ],
)
def test_what_cannot_be_fitted(features: Tensor, target: Tensor, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_logistic_regression(features, target, **options)
