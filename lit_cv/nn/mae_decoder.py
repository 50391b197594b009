"""The decoder of a masked autoencoder."""

import logging
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.nn.patches import gather_patches
from lit_cv.nn.positions import sincos_positions
from lit_cv.nn.transformer import Block, init_weights
from lit_cv.nn.weights import read_weights

__all__ = ["MAEDecoder", "decoder_weights", "load_decoder"]

_LOGGER = logging.getLogger("lit_cv")


class MAEDecoder(nn.Module):
    """The decoder that predicts the pixels of patches from the encoded visible ones (He et al. 2021, section 3).

    A learned mask token represents every hidden patch. All patches get the fixed sine-cosine positions, which exist for
    any grid. Patches are not put in grid order, because a transformer is permutation-equivariant.

    Args:
        num_features: Width of the encoded tokens.
        patch_dim: Number of values to predict per patch, its pixels times the channels.
        width: Width of the decoder, a multiple of 4 and of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, num_features: int, patch_dim: int, width: int = 256, depth: int = 4, heads: int = 8) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise OptionError(self, "decoder_width", width, "must be a multiple of 4")
        if depth < 1:
            raise OptionError(self, "decoder_depth", depth, "must be at least 1")
        self.embed = nn.Linear(num_features, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pred = nn.Linear(width, patch_dim)
        self.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)
        self._tables: dict[tuple[tuple[int, int], torch.device, torch.dtype], Tensor] = {}

    def forward(
        self, tokens: Tensor, keep: Tensor, hidden: Tensor, grid: tuple[int, int], everything: bool = False
    ) -> Tensor:
        """Return the predicted pixels of the hidden patches.

        Args:
            tokens: (N, T + K, num_features): T prefix tokens, such as the class token, and the K visible patches.
            keep: (N, K), indices of the visible patches.
            hidden: (N, M), indices of the hidden patches.
            grid: Rows and columns of patches, K + M in total.
            everything: Whether to predict all patches.

        Returns:
            (N, M, patch_dim) in the order of `hidden`, or (N, K + M, patch_dim) row by row.
        """
        table = self._positions(grid, self.mask_token)
        x = self.embed(tokens)
        prefix = x.shape[1] - keep.shape[1]
        visible = x[:, prefix:] + gather_patches(table, keep)
        masked = self.mask_token + gather_patches(table, hidden)
        x = torch.cat([x[:, :prefix], visible, masked.to(visible.dtype)], 1)
        # The last block computes only the tokens that predictions are made from.
        predicted = keep.shape[1] + hidden.shape[1] if everything else hidden.shape[1]
        for index, block in enumerate(self.blocks):
            x = block(x, predicted if index == len(self.blocks) - 1 else None)
        patches = cast(Tensor, self.pred(self._normalize(x)))
        if not everything:
            return patches
        order = torch.cat([keep, hidden], 1)
        return gather_patches(patches, order.argsort(1))

    def _normalize(self, x: Tensor) -> Tensor:
        """Apply the layer norm in float32: its squares overflow in float16."""
        with torch.autocast(x.device.type, enabled=False):
            normed = F.layer_norm(
                x.float(), self.norm.normalized_shape, self.norm.weight.float(), self.norm.bias.float(), self.norm.eps
            )
        return normed.to(self.pred.weight.dtype)

    def _positions(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        key = (grid, like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = sincos_positions(grid, like.shape[-1])[None].to(like.device, like.dtype)
        return self._tables[key]


def load_decoder(decoder: MAEDecoder, name: str, weights: str) -> None:
    """Copy the decoder in a weights file, in place, and log whether the file has one of the same sizes.

    Args:
        decoder: The decoder.
        name: Name of the backbone.
        weights: Path of a checkpoint of lit_cv or of the MAE authors' code.
    """
    state = decoder_weights(read_weights(name, weights).state)
    current = decoder.state_dict()
    fits = state.keys() == current.keys() and all(state[key].shape == value.shape for key, value in current.items())
    if fits:
        decoder.load_state_dict(state)
        _LOGGER.info("%s: loaded the decoder, too.", weights)
    else:
        reason = "its decoder has other sizes (decoder_width, decoder_depth)" if state else "it holds no decoder"
        _LOGGER.info("%s: the decoder starts with random weights because %s.", weights, reason)


def decoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the decoder weights in a state dict of lit_cv or the MAE authors under lit_cv's names, empty if none."""
    if "head.mask_token" in state:
        return {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
    decoder = {key: value for key, value in state.items() if key.startswith("decoder_") and key != "decoder_pos_embed"}
    if decoder and "mask_token" in state:
        decoder["mask_token"] = state["mask_token"]
    return {key.removeprefix("decoder_"): value for key, value in decoder.items()}
