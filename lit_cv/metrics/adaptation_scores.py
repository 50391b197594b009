"""Scores of a classifier in a target domain that need no target labels, to choose checkpoints and methods by."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "cluster_agreement",
    "embedded_validation_risk",
    "nuclear_norm",
    "prediction_silhouette",
    "soft_neighborhood_density",
]

_CHUNK = 1024


@torch.no_grad()
def soft_neighborhood_density(probabilities: Tensor, temperature: float = 0.05) -> Tensor:
    """Return how many soft neighbors the predictions have on average, as the entropy of their similarities.

    Predictions in dense clusters have many close neighbors, those between clusters have none; the higher the better
    (Saito et al. 2021, "Tune It the Right Way"). A classifier that predicts one class for all images has the highest
    value of all, log(N - 1): combine it with a measure of diversity.

    Args:
        probabilities: (N, K) predictions for target images, N at least 2.
        temperature: Divides the similarities.

    Example:
        >>> soft_neighborhood_density(torch.eye(2).repeat(4, 1)).exp().round()
        tensor(3.)
    """
    _check_rows(probabilities)
    unit = F.normalize(probabilities.float(), dim=1)
    total = unit.new_zeros((), dtype=torch.float64)
    for start in range(0, len(unit), _CHUNK):
        similarity = unit[start : start + _CHUNK] @ unit.T / temperature
        similarity.diagonal(start).fill_(-torch.inf)
        total += torch.special.entr(similarity.softmax(1)).sum()
    return (total / len(unit)).float()


@torch.no_grad()
def nuclear_norm(probabilities: Tensor) -> Tensor:
    """Return the sum of the singular values of the predictions, as a share of the largest possible one.

    It is 1 if predictions are confident and equally many for each class, and lower for uncertain or uniform ones (Cui
    et al. 2020, "Towards Discriminability and Diversity: Batch Nuclear-norm Maximization").

    Args:
        probabilities: (N, K) predictions for target images, N at least 2.

    Example:
        >>> nuclear_norm(torch.eye(2).repeat(3, 1))
        tensor(1.)
    """
    _check_rows(probabilities)
    count, classes = probabilities.shape
    values = torch.linalg.svdvals(probabilities.double())
    share: Tensor = values.sum() / math.sqrt(count * min(count, classes))
    return share.float()


@torch.no_grad()
def cluster_agreement(features: Tensor, predictions: Tensor, num_classes: int, seed: int = 0) -> Tensor:
    """Return the adjusted mutual information between predicted classes and k-means clusters of the features.

    It is 1 if each class is a cluster of its own, and 0 if predictions know nothing of the clusters (Musgrave et al.
    2022, "Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain Adaptation", ClassAMI).

    Args:
        features: (N, D) of target images, N at least `num_classes`; they are normalized to length 1.
        predictions: (N,) int64, the predicted classes.
        num_classes: Number of clusters.
        seed: Seed of the clusters' starts.

    Example:
        >>> cluster_agreement(torch.eye(2).repeat(5, 1), torch.tensor([0, 1]).repeat(5), num_classes=2)
        tensor(1.)
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score

    _check_rows(features)
    unit = F.normalize(features.float(), dim=1).cpu().numpy()
    clusters = KMeans(min(num_classes, len(unit)), n_init=5, random_state=seed).fit_predict(unit)
    return torch.tensor(float(adjusted_mutual_info_score(predictions.cpu().numpy(), clusters)))


@torch.no_grad()
def prediction_silhouette(features: Tensor, predictions: Tensor) -> Tensor:
    """Return the silhouette of the predicted classes in the features, in [-1, 1].

    It compares the distance of an image to its own predicted class with that to the next one: 1 for classes far apart
    (Musgrave et al. 2022, ClassSS). It is -1 where only one class is predicted, the worst value.

    Args:
        features: (N, D) of target images; they are normalized to length 1.
        predictions: (N,) int64, the predicted classes.

    Example:
        >>> prediction_silhouette(torch.eye(2).repeat(5, 1), torch.tensor([0, 1]).repeat(5))
        tensor(1.)
    """
    from sklearn.metrics import silhouette_score

    _check_rows(features)
    found = len(set(predictions.tolist()))
    if not 1 < found < len(predictions):
        return torch.tensor(-1.0)
    unit = F.normalize(features.float(), dim=1).cpu().numpy()
    return torch.tensor(float(silhouette_score(unit, predictions.cpu().numpy())))


@torch.no_grad()
def embedded_validation_risk(losses: Tensor, weights: Tensor) -> Tensor:
    """Return an estimate of the target risk from source images, weighted by how much they look like target images.

    The mean of `weights * losses` is an unbiased estimate of the target risk, of high variance; the mean weight, known
    to be 1, is subtracted as a control variate (You et al. 2019, "Towards Accurate Model Selection in Deep Unsupervised
    Domain Adaptation", equation 8). The lower the better.

    Args:
        losses: (N,) of labeled source images that were not trained on.
        weights: (N,) density ratios, target to source, of their features.

    Example:
        >>> embedded_validation_risk(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.5]))
        tensor(0.2500)
    """
    if losses.shape != weights.shape or losses.ndim != 1 or len(losses) < 2:
        raise ValueError(
            f"losses {tuple(losses.shape)}, weights {tuple(weights.shape)}: give (N,) of both, N at least 2."
        )
    weighted, weights = (losses * weights).double(), weights.double()
    variance = weights.var()
    covariance = ((weighted - weighted.mean()) * (weights - weights.mean())).sum() / (len(weights) - 1)
    eta = -covariance / variance if variance > 0 else variance
    return (weighted.mean() + eta * weights.mean() - eta).float()


def _check_rows(values: Tensor) -> None:
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"values of shape {tuple(values.shape)}: give a row for each image, at least two.")
