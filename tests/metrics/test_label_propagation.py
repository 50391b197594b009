"""Label propagation against scikit-learn's and a dense solution."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor

from lit_cv.metrics import certainty, propagate_labels, propagated_predictions


def rings(count: int = 60) -> tuple[Tensor, Tensor]:
    """Return points near two circles of latitude, and the circle of each."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(2 * count, generator=generator) * 2 * torch.pi
    circle = torch.arange(2 * count) % 2
    latitude = 0.2 + 0.5 * circle + 0.02 * torch.randn(2 * count, generator=generator)
    flat = latitude.cos()
    return torch.stack([flat * angle.cos(), flat * angle.sin(), latitude.sin()], dim=1), circle


def affinities(embeddings: np.ndarray, k: int) -> np.ndarray:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    kept = np.zeros_like(similarity)
    for row, column in enumerate(np.argsort(-similarity, axis=1)[:, :k]):
        kept[row, column] = similarity[row, column].clip(0) ** 3
    return kept + kept.T


def test_equals_scikit_learn() -> None:
    points, circle = rings()
    labels = torch.full_like(circle, -1)
    labels[[0, 1, 8, 9, 11]] = circle[[0, 1, 8, 9, 11]]
    found = propagate_labels(points, labels, 2, k=6, alpha=0.9)
    model = LabelSpreading(kernel=lambda a, b: affinities(a, 6), alpha=0.9, max_iter=2000, tol=1e-12)
    scores = model.fit(points.double().numpy(), labels.numpy()).label_distributions_
    # scikit-learn divides each row by its sum first: the solution itself has the columns of the dense system.
    graph = affinities(points.double().numpy(), 6)
    degree = graph.sum(0)
    dense = np.linalg.solve(
        np.eye(len(graph)) - 0.9 * graph / np.sqrt(np.outer(degree, degree)),
        np.eye(2)[labels] * (labels >= 0)[:, None].numpy(),
    )
    np.testing.assert_allclose(scores, dense / dense.sum(1, keepdims=True), atol=1e-6)
    dense /= dense.sum(0)
    np.testing.assert_allclose(found.numpy(), dense / dense.sum(1, keepdims=True), atol=1e-4)


def test_one_label_reaches_the_whole_cluster() -> None:
    points, circle = rings(300)
    labels = torch.full_like(circle, -1)
    labels[:2] = circle[:2]
    probabilities = propagate_labels(points, labels, 2)
    assert (probabilities.argmax(1) == circle).float().mean() > 0.95
    nearest = F.normalize(points, dim=1) @ F.normalize(points[:2], dim=1).T
    assert (circle[:2][nearest.argmax(1)] == circle).float().mean() < 0.8
    assert certainty(probabilities)[:2].min() > 0.9


def test_more_columns_than_directions_keep_the_neighbors() -> None:
    points, circle = rings()
    rotation = torch.linalg.qr(torch.randn(300, 300, generator=torch.Generator().manual_seed(1)))[0][:3]
    labels = torch.where(torch.arange(len(circle)) < 4, circle, -1)
    expected = propagate_labels(points, labels, 2)
    torch.testing.assert_close(propagate_labels(points @ rotation, labels, 2), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_features_that_share_one_direction_stay_finite(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = (torch.randn(300, 400, generator=generator) * 0.02 + 1).relu()
    features[:, 200:] = features[:, :1]
    features[150:, :50] *= 0.5
    labels = torch.full((300,), -1)
    labels[0], labels[-1] = 0, 1
    probabilities = propagate_labels(features, labels, 2)
    assert probabilities.isfinite().all()
    assert torch.equal(probabilities.argmax(1), (torch.arange(300) >= 150).long())


def test_images_out_of_reach_are_undecided() -> None:
    points = torch.eye(6)[[0, 0, 0, 5, 5, 5]] + 0.01 * torch.arange(6.0)[:, None] * torch.eye(6)[[1, 1, 1, 4, 4, 4]]
    probabilities = propagate_labels(points, torch.tensor([0, -1, -1, -1, -1, -1]), 3, k=2)
    torch.testing.assert_close(probabilities[3:], torch.full((3, 3), 1 / 3))
    assert probabilities[:3].argmax(1).tolist() == [0, 0, 0]


def test_queries_take_no_part_in_the_propagation() -> None:
    points, circle = rings(300)
    bank, queries = points[:400], points[400:]
    labels = torch.where(torch.arange(400) < 4, circle[:400], -1)
    found = propagated_predictions(queries, bank, labels, 2)
    assert (found == circle[400:]).float().mean() > 0.95
    assert torch.equal(found[:7], propagated_predictions(queries[:7], bank, labels, 2))


def test_single_image_keeps_its_label() -> None:
    assert propagate_labels(torch.ones(1, 2), torch.tensor([1]), 3).tolist() == [[0, 1, 0]]


def test_invalid_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 embeddings with 0 known labels"):
        propagate_labels(torch.eye(2), torch.tensor([-1, -1]), 2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        propagate_labels(torch.tensor([[0.0, torch.nan], [1.0, 0.0]]), torch.tensor([0, -1]), 2)
    with pytest.raises(ValueError, match="alpha=1"):
        propagate_labels(torch.eye(2), torch.tensor([0, -1]), 2, alpha=1)
    with pytest.raises(ValueError, match="k=0"):
        propagate_labels(torch.eye(2), torch.tensor([0, -1]), 2, k=0)
