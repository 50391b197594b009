"""Information maximization: confident predictions that are spread over the classes. Pure torch."""

from torch import Tensor

from lit_cv.distributed import gather_with_gradient

__all__ = ["information_loss"]

_TINY = 1e-8


def information_loss(logits: Tensor, diversity_weight: float = 1.0, gather: bool = False) -> Tensor:
    """Return the mean entropy of predictions minus the entropy of the mean prediction, in nats.

    It is the negative mutual information of images and predictions: smallest, -log K, for confident predictions that
    are equally frequent in all classes, and 0 where all predictions are the same (Krause et al. 2010; Liang et al.
    2020, "SHOT", equation 2).

    Args:
        logits: (N, K) of images without labels.
        diversity_weight: Weight of the entropy of the mean prediction. Below 1 it allows uneven classes.
        gather: Whether the mean prediction is that of all ranks, each of which calls this with its own images.

    Example:
        >>> information_loss(torch.tensor([[9.0, -9.0], [-9.0, 9.0]])).round(decimals=3)
        tensor(-0.6930)
        >>> information_loss(torch.zeros(2, 2))
        tensor(0.)
    """
    log_probabilities = logits.float().log_softmax(1)
    probabilities = log_probabilities.exp()
    entropy = -(probabilities * log_probabilities).sum(1).mean()
    mean = probabilities.mean(0)
    if gather:
        mean = gather_with_gradient(mean[None]).mean(0)
    # `torch.special.entr` has an infinite gradient at 0.
    return entropy + diversity_weight * (mean * mean.clamp_min(_TINY).log()).sum()
