"""Conversion of vision transformer weights from and to other layouts: timm, the MAE authors' code, torchvision."""

import math
import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from lit_cv.errors import OptionError
from lit_cv.nn.positions import resize_positions
from lit_cv.nn.vit import VisionTransformer

__all__ = [
    "export_vit",
    "fit_vit_weights",
    "from_other_layout",
    "to_torchvision_layout",
    "vit_image_size",
    "vit_patch_side",
]

_PAIRS = (  # names in timm and torchvision
    ("patch_embed.proj.", "conv_proj."),
    ("cls_token", "class_token"),
    ("pos_embed", "encoder.pos_embedding"),
    ("norm.", "encoder.ln."),
)
_BLOCK_PAIRS = (
    ("norm1.", "ln_1."),
    ("norm2.", "ln_2."),
    ("attn.qkv.", "self_attention.in_proj_"),
    ("attn.proj.", "self_attention.out_proj."),
    ("mlp.fc1.", "mlp.0."),
    ("mlp.fc2.", "mlp.3."),
)
_BLOCK = re.compile(r"blocks\.(\d+)\.(.*)")
_TORCHVISION_BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.*)")
# Parts that change the output and that `VisionTransformer` does not have.
_UNSUPPORTED = ("ls1.", "ls2.", "q_norm.", "k_norm.", "reg_token", "norm_pre.", "w12", "relative_position")
_MAX_PATCHES = 1 << 16  # limits the memory that a file can request
_MAX_SIDE = 256  # pixels of a patch


def from_other_layout(source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights in any known layout to the names of `VisionTransformer`.

    Args:
        source: Source of the weights, for error messages.
        state: Weights under the names of timm, the MAE authors' code, torchvision or lit_cv. Keys of a MAE decoder and
            of classifiers do not change.

    Returns:
        The same tensors, and `grid_size`, the rows and columns of patches; without it, the grid is assumed square.

    Raises:
        ValueError: If the weights are of another kind of vision transformer, or the positions form no square grid.
    """
    weights = {_from_torchvision(key): v for key, v in state.items()} if "conv_proj.weight" in state else {**state}
    if "pos_embed" not in weights or "patch_embed.proj.weight" not in weights:
        return weights
    unsupported = sorted({part for part in _UNSUPPORTED for key in weights if f".{part}" in f".{key}"})
    if unsupported:
        raise ValueError(
            f"{source} holds a vision transformer with unsupported parts ({', '.join(unsupported)}): "
            "use its timm name instead, timm/NAME."
        )
    if "fc_norm.weight" in weights and "norm.weight" not in weights:  # fine-tuned with mean pooling
        weights = {re.sub(r"^fc_norm\.", "norm.", key): value for key, value in weights.items()}
    if "grid_size" not in weights:
        length = _count_positions(weights)
        side = math.isqrt(length)
        # Some of timm's networks have no position embedding for the class token.
        if length - side * side not in ((0, 1) if "cls_token" in weights else (0,)):
            raise ValueError(f"{source}: its {length} positions do not form a square grid of patches.")
        weights["grid_size"] = torch.tensor([side, side])
    return weights


def vit_image_size(state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the image height and width of the weights of a `VisionTransformer`, `None` for other weights.

    Raises:
        ValueError: If their shapes match no grid of patches, or the grid is too large.
    """
    if any(key not in state for key in ("grid_size", "pos_embed", "patch_embed.proj.weight")):
        return None
    patch = vit_patch_side(state["patch_embed.proj.weight"])
    rows, columns = _grid(state)
    if rows * columns > _MAX_PATCHES:
        raise ValueError(f"its grid has {rows} x {columns} patches, more than {_MAX_PATCHES:,}: set image_size.")
    return rows * patch, columns * patch


def vit_patch_side(weight: Tensor) -> int:
    """Return the patch size of the weight of a patch embedding.

    Raises:
        ValueError: If the patches are not square, or too large.
    """
    if weight.ndim != 4 or not 0 < weight.shape[3] == weight.shape[2] <= _MAX_SIDE:
        raise ValueError(
            f"its patch embedding has the shape {tuple(weight.shape)}: square patches of at most {_MAX_SIDE} pixels "
            "are allowed."
        )
    return weight.shape[3]


def _count_positions(state: Mapping[str, Tensor]) -> int:
    shape = state["pos_embed"].shape
    if len(shape) != 3 or shape[0] != 1 or 0 in shape:
        raise ValueError(f"its pos_embed has the shape {tuple(shape)}: (1, positions, width) is allowed.")
    return shape[1]


def _grid(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return the rows and columns of patches; raise ValueError if the number of positions does not match."""
    size, length = state["grid_size"], _count_positions(state)
    if size.shape != (2,) or size.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"its grid_size has shape {tuple(size.shape)} and {size.dtype}: two integers are allowed.")
    rows, columns = (int(side) for side in size.tolist())
    if min(rows, columns) < 1 or length - rows * columns not in (0, 1):
        raise ValueError(f"its grid_size is {rows} x {columns}, but it has {length} positions.")
    return rows, columns


def fit_vit_weights(body: VisionTransformer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fit the position embeddings in the weights of a `VisionTransformer` to the grid and class token of `body`.

    Raises:
        ValueError: If the positions form no grid of patches.
    """
    fitted = dict(state)
    if "grid_size" not in state or "pos_embed" not in state:
        return fitted
    positions = resize_positions(state["pos_embed"], _grid(state), body.grid)
    patches = body.grid[0] * body.grid[1]
    prefix = positions[:, : positions.shape[1] - patches]
    if prefix.shape[1] != body.num_prefix_tokens:
        # If the class token has no position embedding, the token itself includes it.
        prefix = positions.new_zeros(1, body.num_prefix_tokens, positions.shape[2])
        positions = torch.cat([prefix, positions[:, -patches:]], 1)
    return fitted | {"pos_embed": positions, "grid_size": torch.tensor(body.grid)}


def export_vit(body: VisionTransformer, layout: Literal["timm", "torchvision"]) -> dict[str, Tensor]:
    """Return the weights of a vision transformer under the names of another library.

    The images must be normalized with the `mean` and `std` of the backbone.

    Args:
        body: The `body` of a backbone.
        layout: `timm`, for `timm.create_model("vit_base_patch16_224", num_classes=0)`; or `torchvision`, for
            `torchvision.models.vit_b_16` with `heads` replaced by an identity.

    Raises:
        ValueError: If the layout is unknown, or torchvision does not support this network.

    Example:
        >>> from lit_cv.nn import create_backbone
        >>> backbone = create_backbone("vit_tiny_p4", image_size=32)
        >>> list(export_vit(backbone.body, "timm"))[:3]
        ['cls_token', 'pos_embed', 'patch_embed.proj.weight']
    """
    state = {key: value.detach().contiguous() for key, value in body.state_dict().items() if key != "grid_size"}
    if layout == "timm":
        return state
    if layout != "torchvision":
        raise OptionError(None, "layout", layout, "must be 'timm' or 'torchvision'")
    if body.cls_token is None or body.grid[0] != body.grid[1]:
        raise ValueError("torchvision's vision transformers need square images and a class token: choose 'timm'.")
    return to_torchvision_layout(state)


def to_torchvision_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights from timm's names to torchvision's; return other weights, including lit_cv's, unchanged."""
    if "patch_embed.proj.weight" not in state or "grid_size" in state:
        return dict(state)
    return {_to_torchvision(key): value for key, value in state.items()}


def _to_torchvision(key: str) -> str:
    if match := _BLOCK.fullmatch(key):
        old, new = next((pair for pair in _BLOCK_PAIRS if match[2].startswith(pair[0])), ("", ""))
        return f"encoder.layers.encoder_layer_{match[1]}.{new}{match[2].removeprefix(old)}"
    return next((new + key.removeprefix(old) for old, new in _PAIRS if key.startswith(old)), key)


def _from_torchvision(key: str) -> str:
    if match := _TORCHVISION_BLOCK.fullmatch(key):
        for new, old in _BLOCK_PAIRS:
            if match[2].startswith(old):
                return f"blocks.{match[1]}.{new}{match[2].removeprefix(old)}"
    return next((new + key.removeprefix(old) for new, old in _PAIRS if key.startswith(old)), key)
