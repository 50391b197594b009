"""Label propagation over the nearest neighbors in an embedding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.metrics.knn import nearest_neighbors

__all__ = ["certainty", "propagate_labels", "propagated_predictions"]

_DIRECTIONS = 128
_ITERATIONS = 100  # of conjugate gradients: the error falls to 1e-6 for alpha = 0.99
_POWER = 3  # of the similarities (Iscen et al. 2019)


@torch.no_grad()
def propagate_labels(embeddings: Tensor, labels: Tensor, num_classes: int, k: int = 10, alpha: float = 0.99) -> Tensor:
    """Return class probabilities of all images, spread from the labeled ones along a graph of nearest neighbors.

    An image passes its classes on to its neighbors in proportion to their similarity, so that a label reaches all
    images of a cluster, however far its ends are from each other. It solves `(I - alpha S) Z = Y`, with the normalized
    affinities S and the one-hot labels Y (Zhou et al. 2003, "Learning with Local and Global Consistency"; Iscen et al.
    2019, "Label Propagation for Deep Semi-supervised Learning"). The columns of Z are divided by their sums, as if all
    classes were equally frequent, and then its rows, to probabilities.

    Every embedding is compared with every other: 50,000 take half a minute on one CPU core.

    Args:
        embeddings: (N, D) float.
        labels: (N,) int64 in [0, num_classes), negative where unknown.
        num_classes: Number of classes K.
        k: Neighbors of each image.
        alpha: How much an image listens to its neighbors rather than to its own label, in [0, 1).

    Returns:
        (N, K) float; a row is uniform if no label reaches the image.

    Raises:
        ValueError: If no embedding has a label, or a number is out of range.

    Example:
        >>> line = torch.tensor([[0.0], [0.1], [0.2], [0.3], [1.0], [1.1], [1.2]])
        >>> angles = torch.cat([line.cos(), line.sin()], dim=1)
        >>> labels = torch.tensor([0, -1, -1, -1, -1, -1, 1])
        >>> propagate_labels(angles, labels, num_classes=2, k=2).argmax(1)
        tensor([0, 0, 0, 0, 1, 1, 1])
    """
    if len(embeddings) != len(labels) or not (labels >= 0).any():
        raise ValueError(
            f"{len(embeddings)} embeddings with {int((labels >= 0).sum())} known labels: give (N,) labels, of which "
            "at least one is known."
        )
    if not embeddings.isfinite().all():
        raise ValueError("the embeddings hold NaN or infinite values, which have no neighbors.")
    if k < 1 or not 0 <= alpha < 1:
        raise ValueError(f"k={k}, alpha={alpha}: k must be at least 1 and alpha in [0, 1).")
    known = torch.where(labels >= 0)[0]
    given = embeddings.new_zeros(len(labels), num_classes, dtype=torch.float32)
    given[known, labels[known]] = 1
    if len(labels) == 1:
        return given
    affinity = _affinity(embeddings, min(k, len(labels) - 1))
    spread = _solve(affinity, given, alpha).clamp_min(0)
    spread = spread / spread.sum(0).clamp_min(1e-12)
    total = spread.sum(1, keepdim=True)
    return torch.where(total > 0, spread / total.clamp_min(1e-30), 1 / num_classes)


@torch.no_grad()
def propagated_predictions(
    queries: Tensor, bank: Tensor, bank_labels: Tensor, num_classes: int, k: int = 10, alpha: float = 0.99
) -> Tensor:
    """Classify images by their neighbors, after labels were propagated among these.

    The queries take no part in the propagation: an image is classified in the same way whichever others are.

    Args:
        queries: (N, D) float.
        bank: (M, D) float, embeddings of training images.
        bank_labels: (M,) int64 in [0, num_classes), negative where unknown.
        num_classes: Number of classes.
        k: Neighbors of each image.
        alpha: See `propagate_labels`.

    Returns:
        (N,) int64, the predicted classes.

    Example:
        >>> bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> propagated_predictions(torch.tensor([[0.8, 0.2]]), bank, torch.tensor([-1, 1, -1, 0]), 2, k=1)
        tensor([1])
    """
    probabilities = propagate_labels(bank, bank_labels, num_classes, k, alpha)
    similarity, index = nearest_neighbors(queries, bank, min(k, len(bank)))
    weight = similarity.clamp_min(0) ** _POWER
    return (weight[..., None] * probabilities[index]).sum(1).argmax(1)


def certainty(probabilities: Tensor) -> Tensor:
    """Return 1 minus the entropy of each row of (N, K), as a share of the largest: 1 for one class, 0 for all alike.

    Example:
        >>> certainty(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([1., 0.])
    """
    entropy = torch.special.entr(probabilities).sum(1)
    share: Tensor = 1 - entropy / math.log(probabilities.shape[1])
    return share


def _affinity(embeddings: Tensor, k: int) -> Tensor:
    """Return the symmetric, normalized affinities (N, N) of nearest neighbors as a sparse matrix."""
    count = len(embeddings)
    embeddings = _principal(embeddings)
    similarity, neighbor = nearest_neighbors(embeddings, embeddings, k + 1)
    rows = torch.arange(count, device=embeddings.device)[:, None].expand_as(neighbor)
    weight = similarity.clamp_min(0) ** _POWER * (neighbor != rows)
    pairs = torch.stack([rows.reshape(-1), neighbor.reshape(-1)])
    both = torch.cat([pairs, pairs.flip(0)], dim=1)
    affinity = torch.sparse_coo_tensor(
        both, weight.reshape(-1).repeat(2), (count, count), check_invariants=False
    ).coalesce()
    degree = weight.new_zeros(count).index_add_(0, affinity.indices()[0], affinity.values())
    scale = degree.clamp_min(1e-12).rsqrt()
    values = affinity.values() * scale[affinity.indices()].prod(0)
    return torch.sparse_coo_tensor(
        affinity.indices(), values, (count, count), is_coalesced=True, check_invariants=False
    )


def _principal(embeddings: Tensor) -> Tensor:
    """Return embeddings of length 1 in their main directions: with 512 columns, neighbors take a third of the time."""
    unit = F.normalize(embeddings.float(), dim=1)
    if unit.shape[1] <= _DIRECTIONS:
        return unit
    moments = (unit.T @ unit).cpu().double()  # in float32 LAPACK returned NaN for features that share one direction
    directions: Tensor = torch.linalg.eigh(moments).eigenvectors[:, -_DIRECTIONS:]
    return unit @ directions.to(unit)


def _solve(affinity: Tensor, given: Tensor, alpha: float) -> Tensor:
    """Return the solution of `(I - alpha affinity) Z = given` for each column, by conjugate gradients."""
    solution, residual = torch.zeros_like(given), given.clone()
    direction, size = residual.clone(), residual.square().sum(0)
    for _ in range(_ITERATIONS):
        image = direction - alpha * torch.sparse.mm(affinity, direction)
        step = size / (direction * image).sum(0).clamp_min(1e-30)
        solution += step * direction
        residual -= step * image
        new = residual.square().sum(0)
        direction = residual + new / size.clamp_min(1e-30) * direction
        size = new
    return solution
