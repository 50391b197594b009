"""Losses of a student that learns from the output of a teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.distributed import gather_batches, gather_with_gradient
from lit_cv.errors import OptionError

__all__ = ["logit_distillation", "relation_distillation"]


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Return T^2 KL(p_teacher || p_student) of probabilities softened by the temperature T.

    It is that of Hinton et al. (2015, "Distilling the Knowledge in a Neural Network"). The factor T^2 keeps the scale
    of the gradient, which the temperature would divide by T^2.

    Args:
        student: Logits (N, K).
        teacher: Logits (N, K), without a gradient.
        temperature: Positive divisor T of all logits; large values teach the similarity of improbable classes.

    Returns:
        A float32 scalar, the mean over the images.

    Raises:
        ValueError: If the shapes differ, or the temperature is not positive.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> logit_distillation(logits, logits + 1), logit_distillation(-logits, logits, temperature=1.0)
        (tensor(0.), tensor(1.5232))
    """
    _check(student, teacher)
    if not temperature > 0:
        raise OptionError(None, "temperature", temperature, "must be positive")
    with torch.autocast(student.device.type, enabled=False):
        p, q = ((_wide(logits) / temperature).log_softmax(1) for logits in (teacher, student))
        return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


def relation_distillation(student: Tensor, teacher: Tensor, gather: bool = False) -> Tensor:
    """Return how much distances and angles between the images of a batch differ between student and teacher.

    It is relational knowledge distillation (Park et al. 2019, "Relational Knowledge Distillation", RKD-DA): the Huber
    loss between the distances of pairs, divided by their mean, plus twice the Huber loss between the cosines of the
    angles of triplets, averaged over pairs and triplets of different images. Student and teacher may have features of
    any width; neither their scale nor their origin matters.

    Time and memory grow with N^3 for N images on all ranks: 67 MB for each of a few tensors at N = 256.

    Args:
        student: Features (N, D).
        teacher: Features (N, E), without a gradient.
        gather: Whether to relate the images of all ranks, each of which must then have the same number. Gradients
            averaged over the ranks are then those of one rank with the joined batch.

    Returns:
        A float32 scalar; 0 for fewer than three images.

    Raises:
        ValueError: If the numbers of images differ.

    Example:
        >>> features = torch.eye(4)
        >>> relation_distillation(3 * features + 1, features) < 1e-6
        tensor(True)
    """
    _check(student[:, :1], teacher[:, :1])
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = _wide(student), _wide(teacher)
        if gather:
            student, teacher = gather_with_gradient(student), gather_batches(teacher)
        n = len(student)
        if n < 3:
            return (student * 0).sum()
        pairs, triplets = n * (n - 1), n * (n - 1) * (n - 2)
        (distances, angles), (true_distances, true_angles) = _relations(student), _relations(teacher)
        distance_loss = F.smooth_l1_loss(distances, true_distances, reduction="sum") / pairs
        return distance_loss + 2 * F.smooth_l1_loss(angles, true_angles, reduction="sum") / triplets


def _relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances (N, N) of pairs divided by their mean, and the cosines (N, N, N) of angles at the first.

    Pairs of an image with itself have the distance 0, triplets with the first image twice the cosine 0.
    """
    n = len(features)
    itself = torch.eye(n, dtype=torch.bool, device=features.device)
    features = features - features.mean(0)  # keeps the differences of products below precise
    products = features @ features.T
    squares = products.diagonal()
    squared = (squares[:, None] + squares - 2 * products).clamp_min(1e-8).masked_fill(itself, 1.0)
    distances = squared.sqrt().masked_fill(itself, 0.0)
    dot_products = products - products[:, :, None] - products[:, None, :] + squares[:, None, None]
    inverse = squared.rsqrt().masked_fill(itself, 0.0)
    cosines = dot_products * inverse[:, :, None] * inverse[:, None, :]
    return distances * (n * (n - 1) / distances.sum()), cosines


def _wide(values: Tensor) -> Tensor:
    """Return values in at least float32."""
    return values if values.dtype == torch.float64 else values.float()


def _check(student: Tensor, teacher: Tensor) -> None:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"outputs of shape {tuple(student.shape)} and {tuple(teacher.shape)}: student and teacher need the same."
        )
