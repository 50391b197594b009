"""Vision transformers for images of any size, with timm's attribute names."""

import math
import re
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.nn.backbone import Network
from lit_cv.nn.patches import gather_patches, patch_grid, patchify
from lit_cv.nn.positions import resize_positions, sincos_positions
from lit_cv.nn.transformer import Block, init_weights

__all__ = ["VIT", "VITSize", "VisionTransformer", "build_vit", "is_vit_name", "vit_patch_size"]

_NAME = re.compile(r"(vit_[a-z]+?)(?:_p(\d+))?(?:_(cls|gap))?")


class VITSize(NamedTuple):
    """Width of the tokens, number of blocks and number of attention heads."""

    width: int
    depth: int
    heads: int


VIT: dict[str, VITSize] = {
    "vit_micro": VITSize(128, 6, 4),
    "vit_tiny": VITSize(192, 12, 3),
    "vit_small": VITSize(384, 12, 6),
    "vit_base": VITSize(768, 12, 12),
    "vit_large": VITSize(1024, 24, 16),
    "vit_huge": VITSize(1280, 32, 16),
}
"""The vision transformers by name (Dosovitskiy et al. 2020, Touvron et al. 2020); `vit_micro` trains on a CPU."""


class _PatchEmbedding(nn.Module):
    """A linear embedding of patches, stored as a convolution for compatibility with the files of other libraries."""

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2020) that can encode a subset of the patches.

    The keys of its state dict are those of timm and of the MAE authors' code, plus `grid_size`, the rows and columns
    of patches of `pos_embed`. Position embeddings are a parameter, initialized to the fixed sine-cosine table, and are
    interpolated for images of another size.

    Args:
        image_size: Height and width in pixels that the position embeddings are created for.
        patch_size: Side P of a patch in pixels.
        in_channels: Channels of the images.
        size: Width D, number of blocks, heads.
        class_token: Whether to put a learned class token before the patches.
        pool: Pooled features: `mean` of the patch tokens, or the class `token`.

    Raises:
        ValueError: If the patch size does not divide the image size, or the number of heads the width.

    Example:
        >>> vit = VisionTransformer((8, 12), 4, 1, VITSize(16, 2, 2))
        >>> vit.forward_features(torch.zeros(5, 1, 8, 12)).shape  # a class token and 2 x 3 patches
        torch.Size([5, 7, 16])
        >>> vit.forward_features(torch.zeros(5, 1, 8, 12), keep=torch.tensor([[0, 4]] * 5)).shape
        torch.Size([5, 3, 16])
    """

    grid_size: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: int,
        in_channels: int,
        size: VITSize,
        class_token: bool = True,
        pool: str = "mean",
    ) -> None:
        super().__init__()
        self.patch_size, self.pool, self.num_features = patch_size, pool, size.width
        self.grid = patch_grid(image_size, patch_size)
        self.patch_embed = _PatchEmbedding(in_channels, size.width, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size.width)) if class_token else None
        table = sincos_positions(self.grid, size.width)[None]
        self.pos_embed = nn.Parameter(F.pad(table, (0, 0, 1, 0)) if class_token else table)
        self.blocks = nn.ModuleList([Block(size.width, size.heads) for _ in range(size.depth)])
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.register_buffer("grid_size", torch.tensor(self.grid))
        self.apply(init_weights)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(size.width, -1))
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patch tokens."""
        return 0 if self.cls_token is None else 1

    def forward_features(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the tokens of normalized images after the last norm.

        Args:
            images: (N, C, H, W), normalized.
            keep: (N, K) int64, row-major indices of the patches to encode; all by default.

        Returns:
            (N, T + K, D): the class token, if any, and the patches in the order of `keep`.
        """
        grid = patch_grid((images.shape[2], images.shape[3]), self.patch_size)
        patches = patchify(images, self.patch_size)
        return self.encode(patches if keep is None else gather_patches(patches, keep), grid, keep)

    def encode(self, patches: Tensor, grid: tuple[int, int], keep: Tensor | None = None) -> Tensor:
        """Return the tokens of patches from `patchify`.

        Args:
            patches: (N, K, P * P * C), in the layout of `patchify`.
            grid: Rows and columns of patches of the full image.
            keep: (N, K), indices of the patches in the image; `None` if these are all patches.
        """
        positions = resize_positions(self.pos_embed, self.grid, grid)
        patch_positions = positions[:, self.num_prefix_tokens :]
        x = self.patch_embed(patches)
        x = x + (patch_positions if keep is None else gather_patches(patch_positions, keep))
        if self.cls_token is not None:
            x = torch.cat(
                [(self.cls_token + positions[:, :1]).expand(x.shape[0], -1, -1), x], 1
            )  # len() would fix the batch in an export
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.norm(x))

    def pool_tokens(self, tokens: Tensor) -> Tensor:
        """Return the features (N, D) of tokens (N, T + K, D)."""
        return tokens[:, 0] if self.pool == "token" else tokens[:, self.num_prefix_tokens :].mean(1)


def is_vit_name(name: str) -> bool:
    """Return whether `name` is one of `VIT`, optionally followed by `_pPATCH` and by `_cls` or `_gap`."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1] in VIT and match[2] != "0"


def vit_patch_size(name: str, image_size: tuple[int, int]) -> int:
    """Return the patch size in the name, otherwise one that gives at least 7 patches along each side.

    Args:
        name: Such as `vit_tiny` or `vit_tiny_p4`.
        image_size: Height and width in pixels.

    Returns:
        The number in the name; else the largest of 16, 8, 4 and 2 that divides both sides and gives at least 7 patches
        along the shorter one; else the smallest of these that divides both sides; else 1.
    """
    match = _NAME.fullmatch(name)
    if match is not None and match[2]:
        return int(match[2])
    divisor = math.gcd(*image_size)
    fitting = [patch for patch in (16, 8, 4, 2) if divisor % patch == 0]
    return next((patch for patch in fitting if min(image_size) >= 7 * patch), min(fitting, default=1))


def build_vit(
    name: str, in_channels: int, image_size: tuple[int, int] | None = None, patch_size: int | None = None
) -> Network:
    """Build a vision transformer.

    Args:
        name: A key of `VIT`, optionally followed by the patch size, such as `_p4`, and by `_cls` (class token pooling)
            or `_gap` (no class token). By default there is a class token, and the patch tokens are averaged.
        in_channels: Channels of the images.
        image_size: Height and width in pixels, 224 by default.
        patch_size: Patch size if the name has none; by default it depends on the image size.

    Raises:
        ValueError: If the patch size does not divide the image size.
    """
    match = _NAME.fullmatch(name)
    if match is None or not is_vit_name(name):
        raise ValueError(f"there is no vision transformer {name!r}: {', '.join(VIT)}, with _pPATCH, _cls or _gap.")
    image_size = image_size or (224, 224)
    patch = int(match[2]) if match[2] else patch_size or vit_patch_size(name, image_size)
    pool = "token" if match[3] == "cls" else "mean"
    body = VisionTransformer(image_size, patch, in_channels, VIT[match[1]], match[3] != "gap", pool)
    return Network(body, _tokens, _pooled, body.num_features, has_feature_map=False)


def _tokens(body: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, cast(Any, body).forward_features(x))


def _pooled(body: nn.Module, tokens: Tensor) -> Tensor:
    return cast(Tensor, cast(Any, body).pool_tokens(tokens))
