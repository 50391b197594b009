"""DINO: the student predicts the teacher's distribution over prototypes for other views of the image."""

import torch
from torch import Tensor

from lit_cv.distributed import gather_batches

__all__ = ["self_distillation_loss", "sinkhorn_assignments"]


def self_distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of each student view with each other teacher view (Caron et al. 2021, equation 3).

    Args:
        student: (S, N, K) logits of the student for S views, the first T of which are those of the teacher.
        teacher: (T, N, K) probabilities of the teacher.
        temperature: Divisor of the student's logits.

    Returns:
        The mean over images and over the T * S - T pairs of different views, in at least float32.

    Example:
        >>> self_distillation_loss(torch.zeros(3, 1, 4), torch.full((2, 1, 4), 0.25), 0.1)  # log(4)
        tensor(1.3863)
    """
    with torch.autocast(student.device.type, enabled=False):
        logits = student if student.dtype == torch.float64 else student.float()
        logs = (logits / temperature).log_softmax(-1)
        others = logs.sum(0) - logs[: len(teacher)]
        return -(teacher.to(logs.dtype) * others).sum(-1).mean() / (len(student) - 1)


@torch.no_grad()
def sinkhorn_assignments(logits: Tensor, iterations: int = 3, gather: bool = True) -> Tensor:
    """Return probabilities that use all prototypes equally often, by Sinkhorn's algorithm (Caron et al. 2020, SwAV).

    It replaces the centering of DINO, as in DINOv2.

    Args:
        logits: (N, K), divided by the temperature already.
        iterations: Number of normalizations of columns and rows.
        gather: Whether prototypes are balanced over the images of all ranks.

    Returns:
        (N, K) in at least float32; rows sum to 1.

    Example:
        >>> sinkhorn_assignments(torch.tensor([[2.0, 0.0], [2.0, 0.0]]))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    shares = logits if logits.dtype == torch.float64 else logits.float()
    largest = shares.amax(0, keepdim=True)
    # Any factor of a row or column is normalized away; subtracting the maximum of columns avoids empty prototypes.
    shares = (shares - (gather_batches(largest).amax(0) if gather else largest[0])).exp()
    for _ in range(iterations):
        sums = shares.sum(0, keepdim=True)
        shares = shares / (gather_batches(sums).sum(0) if gather else sums[0])
        shares = shares / shares.sum(1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
    return shares
