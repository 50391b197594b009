"""Which answers of a teacher are good enough to learn from."""

from torch import Tensor

__all__ = ["class_thresholds", "pseudo_labels"]


def class_thresholds(threshold: float, class_share: Tensor) -> Tensor:
    """Return a threshold for each class, lower for classes that the teacher hardly ever gives.

    `threshold * share_c / max(share)`, the local thresholds of FreeMatch (Wang et al. 2023, equation 7): a class that
    is behind is let in at a lower confidence, so that the frequent ones do not take over.

    Args:
        threshold: Threshold of the most frequent class.
        class_share: (K,) mean probability of each class.

    Example:
        >>> class_thresholds(0.9, torch.tensor([0.5, 0.25, 0.25]))
        tensor([0.9000, 0.4500, 0.4500])
    """
    return threshold * (class_share / class_share.max())  # exactly the threshold for the most frequent class


def pseudo_labels(probabilities: Tensor, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeliest classes, and which of them are at least as probable as the threshold.

    Args:
        probabilities: (N, K).
        threshold: One for all, or (K,) by class.

    Returns:
        Labels (N,) int64 and the mask (N,) bool of those to learn from.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> pseudo_labels(torch.tensor([[0.96, 0.04], [0.3, 0.7]]), 0.95)
        (tensor([0, 1]), tensor([ True, False]))
    """
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities of the shape {tuple(probabilities.shape)}: give (N, K).")
    confidence, labels = probabilities.max(1)
    if isinstance(threshold, Tensor) and threshold.ndim > 0:
        if threshold.shape != probabilities.shape[1:]:
            raise ValueError(
                f"thresholds of the shape {tuple(threshold.shape)} for {probabilities.shape[1]} classes: give one "
                "number, or one for each class."
            )
        threshold = threshold[labels]
    return labels, confidence >= threshold
