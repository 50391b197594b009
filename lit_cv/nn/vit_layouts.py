"""Names of a vision transformer's weights in others' files: timm, the authors' MAE code, torchvision."""

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

_PAIRS = (
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
_THEIR_BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.*)")
# Parts that change what the network computes, and which ours does not have.
_FOREIGN = ("ls1.", "ls2.", "q_norm.", "k_norm.", "reg_token", "norm_pre.", "w12", "relative_position")
_MOST_PATCHES = 1 << 16  # no memory is given for more because a file says so
_MOST_SIDE = 256  # pixels of a patch


def from_other_layout(source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under our names, whichever of the known layouts they have.

    Args:
        source: Where they come from, for errors.
        state: Weights as timm, the authors' MAE code, torchvision or this project name them. Those of a MAE
            decoder and of classifiers keep their names.

    Returns:
        The same tensors, and `grid_size`, the rows and columns of patches; other files than ours hold square ones.

    Raises:
        ValueError: If they are of a vision transformer of another kind, or the patches of no known grid.
    """
    own = {_from_torchvision(key): value for key, value in state.items()} if "conv_proj.weight" in state else {**state}
    if "pos_embed" not in own or "patch_embed.proj.weight" not in own:
        return own
    foreign = sorted({part for part in _FOREIGN for key in own if f".{part}" in f".{key}"})
    if foreign:
        raise ValueError(
            f"{source} holds a vision transformer with parts that these networks lack ({', '.join(foreign)}): "
            "build it by its timm name instead, timm/NAME."
        )
    if "fc_norm.weight" in own and "norm.weight" not in own:  # fine-tuned with mean pooling
        own = {re.sub(r"^fc_norm\.", "norm.", key): value for key, value in own.items()}
    if "grid_size" not in own:
        length = _count_positions(own)
        side = math.isqrt(length)
        # With one for the class token or, as in some of timm's networks, without.
        if length - side * side not in ((0, 1) if "cls_token" in own else (0,)):
            raise ValueError(f"{source}: its {length} positions are of no square grid of patches.")
        own["grid_size"] = torch.tensor([side, side])
    return own


def vit_image_size(state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the height and width that weights under our names are for, `None` if they are of another network.

    Raises:
        ValueError: If their shapes are those of no grid of patches, or of a huge one.
    """
    if any(key not in state for key in ("grid_size", "pos_embed", "patch_embed.proj.weight")):
        return None
    patch = vit_patch_side(state["patch_embed.proj.weight"])
    rows, columns = _grid(state)
    if rows * columns > _MOST_PATCHES:
        raise ValueError(f"it is for {rows} x {columns} patches: give the image_size that you want instead.")
    return rows * patch, columns * patch


def vit_patch_side(weight: Tensor) -> int:
    """Return the side of the patches that the weight of a convolution embeds.

    Raises:
        ValueError: If it has the shape of none.
    """
    if weight.ndim != 4 or not 0 < weight.shape[3] == weight.shape[2] <= _MOST_SIDE:
        raise ValueError(f"its patch embedding has the shape {tuple(weight.shape)}, which is of no square patches.")
    return weight.shape[3]


def _count_positions(state: Mapping[str, Tensor]) -> int:
    shape = state["pos_embed"].shape
    if len(shape) != 3 or shape[0] != 1 or 0 in shape:
        raise ValueError(f"its pos_embed has the shape {tuple(shape)}, where (1, positions, width) is allowed.")
    return shape[1]


def _grid(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return the rows and columns of patches, which must be those of the positions."""
    size, length = state["grid_size"], _count_positions(state)
    if size.shape != (2,) or size.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"its grid_size is no pair of whole numbers, but of shape {tuple(size.shape)}, {size.dtype}.")
    rows, columns = (int(side) for side in size.tolist())
    if min(rows, columns) < 1 or length - rows * columns not in (0, 1):
        raise ValueError(f"its grid_size is {rows} x {columns}, but it has {length} positions.")
    return rows, columns


def fit_vit_weights(body: VisionTransformer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under our names with positions for the grid of `body`, and for its class token if it has one.

    Raises:
        ValueError: If the positions are of no grid of patches.
    """
    fitted = dict(state)
    if "grid_size" not in state or "pos_embed" not in state:
        return fitted
    positions = resize_positions(state["pos_embed"], _grid(state), body.grid)
    patches = body.grid[0] * body.grid[1]
    others = positions[:, : positions.shape[1] - patches]
    if others.shape[1] != body.num_prefix_tokens:
        # A class token whose position is nowhere has it in the token itself.
        others = positions.new_zeros(1, body.num_prefix_tokens, positions.shape[2])
        positions = torch.cat([others, positions[:, -patches:]], 1)
    return fitted | {"pos_embed": positions, "grid_size": torch.tensor(body.grid)}


def export_vit(body: VisionTransformer, layout: Literal["timm", "torchvision"]) -> dict[str, Tensor]:
    """Return the weights of a vision transformer as another library names them.

    The images must be normalised as the backbone does it, with its `mean` and `std`.

    Args:
        body: The `body` of a backbone.
        layout: `timm`, for `timm.create_model("vit_base_patch16_224", num_classes=0)`; or `torchvision`, for
            `torchvision.models.vit_b_16` with its `heads` replaced by an identity.

    Raises:
        ValueError: If the layout is unknown, or torchvision cannot hold this network.

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
        raise OptionError(None, "layout", layout, "give 'timm' or 'torchvision'")
    if body.cls_token is None or body.grid[0] != body.grid[1]:
        raise ValueError("torchvision's vision transformers take square images and have a class token; this has not.")
    return to_torchvision_layout(state)


def to_torchvision_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under timm's names as torchvision names them; others, and those of this project, as they are."""
    if "patch_embed.proj.weight" not in state or "grid_size" in state:
        return dict(state)
    return {_to_torchvision(key): value for key, value in state.items()}


def _to_torchvision(key: str) -> str:
    if match := _BLOCK.fullmatch(key):
        ours, theirs = next((pair for pair in _BLOCK_PAIRS if match[2].startswith(pair[0])), ("", ""))
        return f"encoder.layers.encoder_layer_{match[1]}.{theirs}{match[2].removeprefix(ours)}"
    return next((theirs + key.removeprefix(ours) for ours, theirs in _PAIRS if key.startswith(ours)), key)


def _from_torchvision(key: str) -> str:
    if match := _THEIR_BLOCK.fullmatch(key):
        for ours, theirs in _BLOCK_PAIRS:
            if match[2].startswith(theirs):
                return f"blocks.{match[1]}.{ours}{match[2].removeprefix(theirs)}"
    return next((ours + key.removeprefix(theirs) for ours, theirs in _PAIRS if key.startswith(theirs)), key)
