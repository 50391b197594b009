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
    """Predicts the pixels of patches from the encoded visible ones (He et al. 2021, section 3).

    A learnt token stands for every hidden patch; all get the fixed sine-cosine positions, so that the grid may be
    any. The order of the patches is left as it comes, for a transformer treats all orders alike.

    Args:
        num_features: Width of the encoded tokens.
        patch_dim: Numbers to predict for a patch, its pixels times the channels.
        width: Width of the decoder, a multiple of 4 and of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.

    Raises:
        ValueError: If a number does not fit.
    """

    def __init__(self, num_features: int, patch_dim: int, width: int = 256, depth: int = 4, heads: int = 8) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise OptionError(self, "decoder_width", width, "give a multiple of 4")
        if depth < 1:
            raise OptionError(self, "decoder_depth", depth, "give at least 1")
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
            tokens: (N, T + K, num_features): T tokens of other kinds, such as the class token, and the K visible
                patches.
            keep: (N, K), where those lie.
            hidden: (N, M), where the others lie.
            grid: Rows and columns of patches, K + M in all.
            everything: Whether to predict all patches.

        Returns:
            (N, M, patch_dim) in the order of `hidden`, or (N, K + M, patch_dim) row by row.
        """
        table = self._positions(grid, self.mask_token)
        x = self.embed(tokens)
        others = x.shape[1] - keep.shape[1]
        shown = x[:, others:] + gather_patches(table, keep)
        masked = self.mask_token + gather_patches(table, hidden)
        x = torch.cat([x[:, :others], shown, masked.to(shown.dtype)], 1)
        # The last block need not know what becomes of the tokens that nothing is predicted from.
        wanted = keep.shape[1] + hidden.shape[1] if everything else hidden.shape[1]
        for index, block in enumerate(self.blocks):
            x = block(x, wanted if index == len(self.blocks) - 1 else None)
        patches = cast(Tensor, self.pred(self._normed(x)))
        if not everything:
            return patches
        order = torch.cat([keep, hidden], 1)
        return gather_patches(patches, order.argsort(1))

    def _normed(self, x: Tensor) -> Tensor:
        """Apply the norm in float32: under float16 its squares overflow."""
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
    """Copy the decoder that a file holds beside its encoder, in place, and log whether it has one that fits.

    Args:
        decoder: The decoder.
        name: Name of the backbone.
        weights: Path of a checkpoint of this project or of the authors' MAE code.
    """
    state = decoder_weights(read_weights(name, weights).state)
    own = decoder.state_dict()
    fits = state.keys() == own.keys() and all(state[key].shape == value.shape for key, value in own.items())
    if fits:
        decoder.load_state_dict(state)
        _LOGGER.info("%s: loaded the decoder, too.", weights)
    else:
        reason = "its decoder has other sizes (decoder_width, decoder_depth)" if state else "it holds no decoder"
        _LOGGER.info("%s: the decoder starts with random weights, for %s.", weights, reason)


def decoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the decoder in a file of this project or of the authors' MAE code under our names, empty if none."""
    if "head.mask_token" in state:
        return {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
    theirs = {key: value for key, value in state.items() if key.startswith("decoder_") and key != "decoder_pos_embed"}
    if theirs and "mask_token" in state:
        theirs["mask_token"] = state["mask_token"]
    return {key.removeprefix("decoder_"): value for key, value in theirs.items()}
