"""Nearest-neighbor classification in an embedding."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["knn_predictions", "nearest_neighbors"]

_CHUNK = 1 << 24  # similarities held in memory at once


@torch.no_grad()
def knn_predictions(
    queries: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_classes: int,
    k: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    chunk_size: int | None = None,
) -> Tensor:
    """Classify embeddings by a weighted vote of their nearest neighbors (Wu et al. 2018, section 3.4).

    Neighbors are ranked by cosine similarity. A neighbor with similarity s votes for its class with the weight
    exp(s / temperature). The queries are processed in chunks, on the device of the tensors.

    Args:
        queries: (N, D) float.
        bank: (M, D) float, the possible neighbors.
        bank_labels: (M,) int64 in [0, num_classes).
        num_classes: Number of classes.
        k: Numbers of neighbors that vote, each limited to M.
        temperature: Positive.
        chunk_size: Number of queries per chunk; `None` chooses.

    Returns:
        (len(k), N) int64, the predicted classes for each number of neighbors.

    Raises:
        ValueError: If the bank is empty, or a number is out of range.

    Example:
        >>> bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> knn_predictions(torch.tensor([[2.0, 0.1]]), bank, torch.tensor([7, 3]), 10, k=[1])
        tensor([[7]])
    """
    if len(bank) == 0 or len(bank) != len(bank_labels):
        raise ValueError(f"bank of {len(bank)} embeddings with {len(bank_labels)} labels: give one per embedding.")
    if min(k) < 1 or not temperature > 0:
        raise ValueError(f"k={list(k)}, temperature={temperature}: both must be positive.")
    numbers = [min(number, len(bank)) for number in k]
    predictions = torch.empty(len(numbers), len(queries), dtype=torch.int64, device=queries.device)
    for start, similarity, index in _neighbors(queries, bank, max(numbers), chunk_size):
        # The largest weight is 1, which avoids overflow at small temperatures.
        weight = ((similarity - similarity[:, :1]) / temperature).exp_()
        label = bank_labels[index]
        for row, number in enumerate(numbers):
            votes = weight.new_zeros(len(index), num_classes)
            votes.scatter_add_(1, label[:, :number], weight[:, :number])
            predictions[row, start : start + len(index)] = votes.argmax(1)
    return predictions


@torch.no_grad()
def nearest_neighbors(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest embeddings by cosine similarity, the nearest first.

    Args:
        queries: (N, D) float.
        bank: (M, D) float, M at least k.
        k: Number of neighbors.

    Returns:
        Similarities (N, k) float, and positions in the bank (N, k) int64.

    Example:
        >>> nearest_neighbors(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), k=1)
        (tensor([[1.]]), tensor([[1]]))
    """
    parts = [(similarity, index) for _, similarity, index in _neighbors(queries, bank, k)]
    similarity, index = (torch.cat(part) for part in zip(*parts, strict=True))
    return similarity, index


def _neighbors(
    queries: Tensor, bank: Tensor, k: int, chunk_size: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the first query of each chunk, and the similarities and positions of the chunk's neighbors."""
    bank = F.normalize(bank.float(), dim=1)
    size = chunk_size or max(1, _CHUNK // len(bank))
    for start in range(0, len(queries), size):
        part = F.normalize(queries[start : start + size].float(), dim=1)
        similarity, index = (part @ bank.T).topk(k, dim=1)
        yield start, similarity, index
