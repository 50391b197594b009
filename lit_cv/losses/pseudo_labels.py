"""Pseudo-labels: selection of a teacher's predictions by their confidence."""

from torch import Tensor

__all__ = ["class_thresholds", "pseudo_labels"]


def class_thresholds(threshold: float, class_share: Tensor) -> Tensor:
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
