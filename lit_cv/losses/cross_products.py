"""Elements of the product of two matrices, without the product where it is the larger one."""

from torch import Tensor

__all__ = ["off_diagonal_energy"]


def off_diagonal_energy(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum of the squared off-diagonal elements of `first.T @ second`.

    With fewer rows than columns, neither time nor memory grows with the square of the columns: the squared Frobenius
    norm of A'B is the sum over all elements of AA' times BB'.

    Args:
        first: (N, D) float.
        second: (N, D) float.

    Example:
        >>> import torch
        >>> off_diagonal_energy(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))  # [[3, 4], [6, 8]]
        tensor(52.)
    """
    if len(first) < first.shape[1]:
        energy = ((first @ first.T) * (second @ second.T)).sum()
        return energy - (first * second).sum(0).square().sum()
    return (first.T @ second).fill_diagonal_(0).square().sum()
