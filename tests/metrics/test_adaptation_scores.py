"""Scores without target labels against their formulas, written out for single images."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor

from lit_cv.metrics import (
    cluster_agreement,
    embedded_validation_risk,
    nuclear_norm,
    prediction_silhouette,
    soft_neighborhood_density,
)


def predictions(count: int = 30, classes: int = 4, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(count, classes, generator=generator)).softmax(1)


@pytest.mark.parametrize("chunk", [7, 1024])
def test_density_is_the_entropy_of_soft_neighbors(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_cv.metrics.adaptation_scores._CHUNK", chunk)
    p = predictions().double().numpy()
    entropies = []
    for i, row in enumerate(p):
        cosines = [row @ q / np.linalg.norm(row) / np.linalg.norm(q) for j, q in enumerate(p) if j != i]
        shares = np.exp(np.array(cosines) / 0.05)
        shares /= shares.sum()
        entropies.append(-(shares * np.log(shares)).sum())
    assert float(soft_neighborhood_density(predictions())) == pytest.approx(np.mean(entropies), rel=1e-4)


def test_density_is_highest_after_a_collapse() -> None:
    collapsed = torch.tensor([[1.0, 0.0]]).repeat(9, 1)
    assert float(soft_neighborhood_density(collapsed)) == pytest.approx(np.log(8), rel=1e-6)


def test_nuclear_norm_is_largest_for_confident_balanced_predictions() -> None:
    p = predictions()
    expected = np.linalg.norm(p.numpy(), "nuc") / np.sqrt(30 * 4)
    assert float(nuclear_norm(p)) == pytest.approx(expected, rel=1e-5)
    balanced = torch.eye(4).repeat(5, 1)
    assert float(nuclear_norm(balanced)) == pytest.approx(1)
    uneven = torch.eye(4)[[0] * 17 + [1, 2, 3]]
    collapsed = torch.eye(4)[[0] * 20]
    assert nuclear_norm(balanced) > nuclear_norm(uneven) > nuclear_norm(collapsed) > nuclear_norm(collapsed * 0 + 0.25)


def test_agreement_is_that_of_the_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    cluster = torch.arange(60) % 3
    features = torch.eye(5)[cluster] + 0.05 * torch.randn(60, 5, generator=generator)
    wrong = torch.where(torch.rand(60, generator=generator) < 0.3, (cluster + 1) % 3, cluster)
    expected = adjusted_mutual_info_score(cluster.numpy(), wrong.numpy())
    assert 0.1 < expected < 0.9
    assert float(cluster_agreement(7 * features, wrong, 3)) == pytest.approx(expected)
    assert float(cluster_agreement(features, cluster, 3)) == pytest.approx(1)
    assert float(cluster_agreement(features, torch.zeros(60, dtype=torch.int64), 3)) == pytest.approx(0, abs=1e-9)


def test_silhouette_follows_its_formula() -> None:
    features = torch.nn.functional.normalize(torch.randn(12, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    classes = torch.arange(12) % 3
    values = []
    for i in range(12):
        means = [
            (features[i] - features[(classes == c) & (torch.arange(12) != i)]).norm(dim=1).mean() for c in range(3)
        ]
        own, other = means[classes[i]], min(means[c] for c in range(3) if c != classes[i])
        values.append(float((other - own) / max(own, other)))
    assert float(prediction_silhouette(3 * features, classes)) == pytest.approx(np.mean(values), abs=1e-6)
    assert prediction_silhouette(features, torch.zeros(12, dtype=torch.int64)) == -1


def test_weighted_risk_estimates_the_target_risk() -> None:
    # Source images are 0 in 80 % of cases, target images in 20 %; the losses of 0 and 1 are about 0.1 and 0.9.
    generator = torch.Generator().manual_seed(0)
    kind = (torch.rand(4000, generator=generator) < 0.2).long()
    losses = torch.tensor([0.1, 0.9])[kind] + 0.05 * torch.randn(4000, generator=generator)
    weights = torch.tensor([0.2 / 0.8, 0.8 / 0.2])[kind]
    found = float(embedded_validation_risk(losses, weights))
    assert found == pytest.approx(0.2 * 0.1 + 0.8 * 0.9, abs=0.01)
    w, wl = weights.double().numpy(), (weights * losses).double().numpy()
    eta = -np.cov(wl, w)[0, 1] / np.var(w, ddof=1)
    assert found == pytest.approx(wl.mean() + eta * w.mean() - eta, rel=1e-5)
    parts = range(0, 4000, 100)
    spread = np.std([float(embedded_validation_risk(losses[k : k + 100], weights[k : k + 100])) for k in parts])
    assert spread < 0.5 * np.std([wl[k : k + 100].mean() for k in parts])


def test_equal_weights_leave_the_mean_loss() -> None:
    losses = torch.tensor([0.2, 0.4, 0.9])
    assert float(embedded_validation_risk(losses, torch.ones(3))) == pytest.approx(0.5)


def test_invalid_input_is_refused() -> None:
    for score in (soft_neighborhood_density, nuclear_norm):
        with pytest.raises(ValueError, match="a row for each image"):
            score(torch.ones(1, 3))
    with pytest.raises(ValueError, match="a row for each image"):
        prediction_silhouette(torch.ones(4), torch.zeros(4))
    with pytest.raises(ValueError, match="of both"):
        embedded_validation_risk(torch.ones(3), torch.ones(2))
