"""The solved classifier, compared with scikit-learn and the formula, and the search of its strength."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from torch import Tensor

from lit_cv.optim import LogisticRegression, fit_logistic_regression, search_strength


def blobs(n: int, d: int, classes: int, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return uncentered features of very different scales, and imbalanced labels."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(n, generator=generator).square() * classes).long()
    labels[:classes] = torch.arange(classes)
    centers = torch.randn(classes, d, generator=generator) * spread
    noise = torch.randn(n, d, generator=generator)
    return (centers[labels] + noise) * torch.logspace(0.5, -0.5, d) + 5, labels


@pytest.mark.parametrize(("n", "d", "classes"), [(200, 12, 4), (60, 150, 5), (80, 8, 2)])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_equals_scikit_learn(n: int, d: int, classes: int, strength: float) -> None:
    features, labels = blobs(n, d, classes)
    found = fit_logistic_regression(features, labels, strength)
    centered = (features - features.mean(0)).double().numpy()  # scikit-learn's search converges here
    if classes == 2:  # its single row of weights is the difference of the two rows here, with twice their penalty
        strength *= 2
    expected: Any = Reference(C=strength, max_iter=10_000, tol=1e-8).fit(centered, labels.numpy())
    weight = found.weight.diff(dim=0) if classes == 2 else found.weight
    torch.testing.assert_close(weight.double(), torch.tensor(expected.coef_), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["one label", "several labels"])
def test_class_weights_equal_scikit_learn(kind: str) -> None:
    features, labels = blobs(200, 12, 4)
    features = features.double()
    centered: Any = (features - features.mean(0)).numpy()
    options: Any = {"C": 0.1, "max_iter": 10_000, "tol": 1e-10, "class_weight": "balanced"}
    if kind == "one label":
        weight = (200 / (4 * labels.bincount()))[labels]
        expected: Any = Reference(**options).fit(centered, labels.numpy())
        found = fit_logistic_regression(features, labels, 0.1, weight=weight, tolerance=1e-8)
        torch.testing.assert_close(found.weight, torch.tensor(expected.coef_), atol=1e-3, rtol=1e-3)
        return
    target = F.one_hot(labels, 4).double()
    target[::7, 1] = 1
    positives = target.sum(0)
    weight = torch.where(target > 0.5, 200 / (2 * positives), 200 / (2 * (200 - positives)))
    found = fit_logistic_regression(features, target, 0.1, weight=weight, tolerance=1e-8)
    for k in range(4):
        expected = Reference(**options).fit(centered, target[:, k].numpy())
        torch.testing.assert_close(found.weight[k : k + 1], torch.tensor(expected.coef_), atol=1e-3, rtol=1e-3)


def test_multi_label_ranks_as_one_vs_rest() -> None:
    features, labels = blobs(400, 20, 5)
    target = F.one_hot(labels, 5).float()
    target[torch.rand(400, generator=torch.Generator().manual_seed(1)) < 0.2, 0] = 1
    regression = LogisticRegression(features[:200], target[:200])
    strength = regression.search_strength().strength
    weight, bias = regression.fit(strength)
    logits = features[200:] @ weight.T + bias
    centered: Any = (features - features[:200].mean(0)).numpy()
    peer: Any = OneVsRestClassifier(Reference(C=strength, max_iter=10_000)).fit(centered[:200], target[:200].numpy())
    ours, theirs = (
        average_precision_score(target[200:].numpy(), scores, average="macro")
        for scores in (logits.numpy(), peer.decision_function(centered[200:]))
    )
    assert ours == pytest.approx(theirs, abs=0.005)


def test_constant_labels_get_finite_bias() -> None:
    features, labels = blobs(60, 8, 3)
    target = F.one_hot(labels, 3).float()
    target = torch.cat([target, torch.zeros(60, 1), torch.ones(60, 1), torch.full((60, 1), math.nan)], dim=1)
    target[::4, 3] = math.nan
    weight, bias = fit_logistic_regression(features, target, 0.1)
    torch.testing.assert_close(weight[3:], torch.zeros(3, 8), atol=1e-4, rtol=0)
    expected = torch.tensor([0.5 / 46, 60.5 / 61, 0.5]).logit()
    torch.testing.assert_close(bias[3:], expected, atol=1e-2, rtol=0)
    assert search_strength(features, target).strength > 0


def test_labels_are_independent() -> None:
    features, labels = blobs(150, 20, 4)
    target = F.one_hot(labels, 4).float()
    together = fit_logistic_regression(features, target, 0.1)
    for k in range(4):
        alone = fit_logistic_regression(features, target[:, k : k + 1], 0.1)
        torch.testing.assert_close(together.weight[k], alone.weight[0], atol=1e-4, rtol=1e-3)


def objective(features: Tensor, target: Tensor, weight: Tensor, bias: Tensor, strength: float) -> Tensor:
    logits = features @ weight.T + bias
    if target.ndim == 1:
        loss = F.cross_entropy(logits, target, reduction="sum")
    else:
        known = ~target.isnan()
        loss = F.binary_cross_entropy_with_logits(logits[known], target[known], reduction="sum")
    return strength * loss + weight.square().sum() / 2


@pytest.mark.parametrize("kind", ["one label", "several labels", "unknown labels"])
def test_gradient_is_zero_at_solution(kind: str) -> None:
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


def test_search_selects_smallest_loss_and_its_scale() -> None:
    features, labels = blobs(300, 60, 3, spread=0.15)
    found = search_strength(features, labels)
    tried, losses = list(found.losses), list(found.losses.values())
    lowest = losses.index(min(losses))
    assert found.strength == next(value for value, loss in found.losses.items() if loss <= 1.0025 * min(losses))
    assert 0 < lowest < len(losses) - 1
    assert losses[: lowest + 1] == sorted(losses[: lowest + 1], reverse=True)
    assert found.strength <= tried[lowest]
    assert found.scale >= 1
    new, truth = (part[150:] for part in blobs(300, 60, 3, spread=0.15))
    old = [part[:150] for part in (features, labels)]
    accuracy = {}
    for strength in (1e-6, search_strength(old[0], old[1]).strength, 1e3):
        weight, bias = fit_logistic_regression(old[0], old[1], strength)
        accuracy[strength] = float(((new @ weight.T + bias).argmax(1) == truth).float().mean())
    weakest, chosen, strongest = accuracy.values()
    assert chosen >= max(weakest, strongest)


def test_search_is_invariant_to_order_and_scale_of_features() -> None:
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
        (torch.ones(3, 2), torch.zeros(3, 2), {"weight": torch.ones(3)}, "weight \\(3,\\) for target \\(3, 2\\)"),
    ],
)
def test_invalid_input_is_refused(features: Tensor, target: Tensor, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_logistic_regression(features, target, **options)
