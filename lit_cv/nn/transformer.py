"""The transformer block of vision transformers and MAE decoders."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.nn.attention import attention

__all__ = ["Block", "init_weights"]


class Block(nn.Module):
    """A pre-norm transformer block: attention and a two-layer MLP, each with a residual connection.

    Args:
        width: Width D of the tokens.
        heads: Number of attention heads.

    Shapes:
        (N, L, D) -> (N, L, D).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} is not divisible by {heads} heads: change one of them.")
        self.drop_path = nn.Identity()  # see `set_stochastic_depth`
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _MLP(width, 4 * width)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """Return the tokens after the block; if `last` is set, only the last so many, which attend to all tokens."""
        branch = self.attn(self.norm1(x), last)
        x = (x if last is None else x[:, -last:]) + self.drop_path(branch)
        return x + cast(Tensor, self.drop_path(self.mlp(self.norm2(x))))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        if last is None:
            query, key, value = self.qkv(x).chunk(3, -1)
        else:
            width, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
            query = F.linear(x[:, -last:], weight[:width], bias[:width])
            key, value = F.linear(x, weight[width:], bias[width:]).chunk(2, -1)
        mixed = attention(self._split(query), self._split(key), self._split(value))
        return cast(Tensor, self.proj(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        return x.view(n, length, self.heads, width // self.heads).transpose(1, 2)


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


def init_weights(module: nn.Module) -> None:
    """Initialize a linear layer as in MAE: Xavier uniform weights and zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
