"""The information loss against an independent formula, and the labels of nearest centroids."""

import math

import numpy as np
import pytest
import torch

from lit_cv.losses import centroid_labels, information_loss


def test_information_loss_is_negative_mutual_information() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(1).numpy()
    conditional = np.mean([-(row * np.log(row)).sum() for row in p])
    marginal = -(p.mean(0) * np.log(p.mean(0))).sum()
    assert float(information_loss(logits)) == pytest.approx(conditional - marginal, rel=1e-5)
    assert float(information_loss(logits, diversity_weight=0.3)) == pytest.approx(
        conditional - 0.3 * marginal, rel=1e-5
    )


def test_information_loss_of_extreme_predictions() -> None:
    even = 1e4 * torch.eye(3).repeat(2, 1)
    assert float(information_loss(even)) == pytest.approx(-math.log(3))
    assert float(information_loss(1e4 * torch.eye(3)[:1].repeat(4, 1))) == pytest.approx(0.0, abs=1e-6)
    logits = even.clone().requires_grad_()
    information_loss(logits).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_information_loss_computes_in_float32() -> None:
    logits = torch.randn(4, 3).bfloat16()
    torch.testing.assert_close(information_loss(logits), information_loss(logits.float()))


def reference_labels(features: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The pseudo-labels of SHOT, written as in its equations: two rounds of cosine distances to centroids."""
    features = np.concatenate([features, np.ones((len(features), 1))], 1)
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = probabilities
    for _ in range(2):
        centroids = np.stack([(weights[:, k : k + 1] * features).sum(0) / weights[:, k].sum() for k in range(3)])
        cosine = features @ centroids.T / np.linalg.norm(centroids, axis=1)
        labels = (1 - cosine).argmin(1)
        weights = np.eye(3)[labels]
    return labels


def test_centroid_labels_equal_the_published_equations() -> None:
    random = np.random.RandomState(0)
    features = random.randn(60, 5) + 2 * np.eye(3, 5)[np.arange(60) % 3]
    probabilities = random.dirichlet([0.5, 0.5, 0.5], 60)
    labels = centroid_labels(torch.from_numpy(features), torch.from_numpy(probabilities))
    assert np.array_equal(labels.numpy(), reference_labels(features, probabilities))


def test_centroid_labels_follow_clusters_rather_than_predictions() -> None:
    truth = torch.arange(90) % 3
    features = 4 * torch.eye(3)[truth] + 0.1 * torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    predicted = torch.where(torch.arange(90) % 5 == 0, (truth + 1) % 3, truth)  # every fifth is wrong
    labels = centroid_labels(features, 0.6 * torch.eye(3)[predicted] + 0.4 / 3)
    assert torch.equal(labels, truth)


def test_class_without_images_keeps_its_centroid() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.0], [0.0, 1.0]])
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.0, 0.9, 0.1]])
    assert centroid_labels(features, probabilities).tolist()[:2] == [0, 0]
