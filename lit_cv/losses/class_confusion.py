"""Confusion between the classes of a classifier's predictions."""

import torch
from torch import Tensor

__all__ = ["class_confusion"]


def class_confusion(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """Return how much predictions confuse classes with each other, without labels, in [0, 1).

    Classes that are probable for the same images are correlated. Each row of this correlation is divided by its sum,
    and the loss is the mean over the classes of what lies off the diagonal. Images with low entropy count more (Jin et
    al. 2020, "Minimum Class Confusion for Versatile Domain Adaptation", equations 1 to 5). As rows are divided by their
    sums, confident predictions may have any class shares; probabilities of 1 / K give 1 - 1 / K.

    Args:
        logits: (N, K).
        temperature: Divides the logits, so that confident predictions show what they confuse, too.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: If the shape is wrong, or the temperature is not positive.

    Example:
        >>> class_confusion(torch.tensor([[9.0, -9.0], [-9.0, 9.0]])) < 0.01
        tensor(True)
        >>> class_confusion(torch.zeros(4, 2))
        tensor(0.5000)
    """
    if logits.ndim != 2 or not len(logits):
        raise ValueError(f"logits of shape {tuple(logits.shape)}: give (N, K) of at least one image.")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive.")
    probabilities = (logits.float() / temperature).softmax(1)
    weight = 1 + (-torch.special.entr(probabilities.detach()).sum(1)).exp()
    weight = weight / weight.mean()
    correlation = (probabilities * weight[:, None]).T @ probabilities
    confusion = correlation / correlation.sum(1, keepdim=True).clamp_min(1e-12)
    kept: Tensor = confusion.diagonal().mean()
    return 1 - kept
