"""The queue of MoCo: embeddings of the most recent images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import OptionError

__all__ = ["KeyQueue"]


class KeyQueue(nn.Module):
    """Keeps the newest vectors, of length 1, and starts with random ones (He et al. 2020, section 3.2).

    Args:
        size: Number of vectors.
        dim: Their dimension.

    Attributes:
        keys: (size, dim) float.

    Raises:
        ValueError: If the size is below 1.

    Example:
        >>> queue = KeyQueue(3, 2)
        >>> queue.push(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> queue.push(torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))
        >>> queue.keys
        tensor([[-1.,  0.],
                [ 0.,  1.],
                [ 0., -1.]])
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise OptionError(self, "size", size, "must be at least 1")
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest vectors by `keys` (N, dim); of more than `size`, the last ones stay."""
        size = len(self.keys)
        keys = keys[-size:].to(self.keys)
        self.keys[(self.position + torch.arange(len(keys), device=keys.device)) % size] = keys
        self.position.add_(len(keys)).remainder_(size)
