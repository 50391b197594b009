"""Pseudo-labels: selection of a teacher's predictions by their confidence."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.distributed import gather_with_gradient

__all__ = ["centroid_labels", "class_thresholds", "fairness_loss", "predicted_classes", "pseudo_labels"]


def class_thresholds(threshold: float | Tensor, class_share: Tensor) -> Tensor:
    """Return a confidence threshold for each class, lower for classes that the teacher rarely predicts.

    These are the local thresholds of FreeMatch (Wang et al. 2023, equation 7), `threshold * share_c / max(share)`. The
    lower thresholds keep the frequent classes from dominating the pseudo-labels.

    Args:
        threshold: Threshold of the most frequent class.
        class_share: (K,) mean probability of each class.

    Example:
        >>> class_thresholds(0.9, torch.tensor([0.5, 0.25, 0.25]))
        tensor([0.9000, 0.4500, 0.4500])
    """
    return threshold * (class_share / class_share.max())  # exactly the threshold for the most frequent class


def pseudo_labels(probabilities: Tensor, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the most probable classes, and which of them reach the threshold.

    Args:
        probabilities: (N, K).
        threshold: Minimum probability, one number or (K,) by class.

    Returns:
        Labels (N,) int64, and a mask (N,) bool of the labels to train on.

    Raises:
        ValueError: If the shapes are wrong.

    Example:
        >>> pseudo_labels(torch.tensor([[0.96, 0.04], [0.3, 0.7]]), 0.95)
        (tensor([0, 1]), tensor([ True, False]))
    """
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities of shape {tuple(probabilities.shape)}: give (N, K).")
    confidence, labels = probabilities.max(1)
    if isinstance(threshold, Tensor) and threshold.ndim > 0:
        if threshold.shape != probabilities.shape[1:]:
            raise ValueError(
                f"thresholds of shape {tuple(threshold.shape)} for {probabilities.shape[1]} classes: give one number, "
                "or one per class."
            )
        threshold = threshold[labels]
    return labels, confidence >= threshold


@torch.no_grad()
def centroid_labels(features: Tensor, probabilities: Tensor, rounds: int = 2) -> Tensor:
    """Return for each image the class whose centroid is nearest in angle.

    The centroids are first means of all features, weighted by the predicted probabilities, then means of the features
    of their own images (Liang et al. 2020, "SHOT", equations 4 to 6). A class that no image is nearest to keeps its
    centroid. Compared with the predictions, images follow the clusters that they belong to.

    Args:
        features: (N, D).
        probabilities: (N, K) predictions.
        rounds: How often images are assigned to centroids, at least 1.

    Returns:
        Labels (N,) int64.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
        >>> centroid_labels(features, probabilities)
        tensor([0, 0, 0, 1])
    """
    # A constant component, as published, keeps small features from having arbitrary directions.
    unit = F.normalize(F.pad(features.float(), (0, 1), value=1.0), dim=1)
    weights = probabilities.float()
    centroids = weights.T @ unit / weights.sum(0)[:, None].clamp_min(1e-8)
    labels = (unit @ F.normalize(centroids, dim=1).T).argmax(1)
    for _ in range(rounds - 1):
        members = F.one_hot(labels, probabilities.shape[1]).to(unit.dtype)
        counts = members.sum(0)[:, None]
        centroids = torch.where(counts > 0, members.T @ unit / counts.clamp_min(1), centroids)
        labels = (unit @ F.normalize(centroids, dim=1).T).argmax(1)
    return labels


def fairness_loss(
    logits: Tensor, mask: Tensor, probabilities: Tensor, histogram: Tensor, gather: bool = False
) -> Tensor:
    """Return the self-adaptive fairness loss of FreeMatch, smallest where predictions are as diverse as expected.

    It is the negative cross-entropy between the class probabilities of past weak views and those of the strong views,
    each divided by the histogram of its predicted classes and normalized (Wang et al. 2023, equations 9 to 11). The
    division keeps the frequent classes of an uneven set from being pushed down.

    Args:
        logits: (N, K) of the strong views.
        mask: (N,) bool, which of them have a pseudo-label.
        probabilities: (K,) moving average of the class probabilities of weak views.
        histogram: (K,) moving average of the shares of their predicted classes.
        gather: Whether the strong views are those of all ranks, each of which calls this with its own.

    Returns:
        A scalar, 0 where no view has a pseudo-label.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> round(float(fairness_loss(logits, torch.tensor([True, True]), *torch.full((2, 2), 0.5))), 4)
        -0.6931
    """
    probability, chosen = logits.float().softmax(1), mask[:, None].float()
    sums = torch.cat([(part * chosen).sum(0) for part in (probability, predicted_classes(probability))])
    sums = torch.cat([sums, chosen.sum()[None]])
    if gather:
        sums = gather_with_gradient(sums[None]).sum(0)
    count = sums[-1].clamp_min(1)
    mean, shares = (sums[:-1] / count).chunk(2)
    expected, found = _normalized(probabilities, histogram), _normalized(mean, shares.detach())
    return (expected * (found + 1e-12).log()).sum() * (sums[-1] > 0).detach()


def predicted_classes(probabilities: Tensor) -> Tensor:
    """Return 1 for the class with the highest probability and 0 for the others, (N, K) float, without waiting for it.

    Example:
        >>> predicted_classes(torch.tensor([[0.2, 0.8], [0.9, 0.1]]))
        tensor([[0., 1.],
                [1., 0.]])
    """
    classes = torch.arange(probabilities.shape[1], device=probabilities.device)
    return (probabilities.argmax(1, keepdim=True) == classes).float()


def _normalized(probabilities: Tensor, histogram: Tensor) -> Tensor:
    """Return probabilities divided by a histogram, 0 where it is 0, with a sum of 1."""
    scaled = torch.where(histogram > 0, probabilities / histogram.clamp_min(1e-12), 0.0)
    return scaled / scaled.sum().clamp_min(1e-12)
