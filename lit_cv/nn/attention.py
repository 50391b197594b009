"""Scaled dot-product attention, by whichever implementation is fastest on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention"]

_PLAIN_LENGTH = 1100  # tokens; beyond this, the attention weights (one per pair of tokens) need too much memory


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query key^T / sqrt(d)) value (Vaswani et al. 2017, equation 1).

    Uses torch's fused attention, except when training in bfloat16 on a CPU. The fused backward pass is slow there; two
    matrix products with a softmax in between are 1.5 times (1,024 tokens) to 5 times (17 tokens) as fast.

    Args:
        query: (N, heads, Q, d).
        key: (N, heads, L, d).
        value: (N, heads, L, d).

    Returns:
        (N, heads, Q, d).
    """
    if (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.requires_grad
        and key.shape[2] <= _PLAIN_LENGTH
    ):
        weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        mixed: Tensor = weights.softmax(-1).to(value.dtype) @ value
        return mixed
    return F.scaled_dot_product_attention(query, key, value)
