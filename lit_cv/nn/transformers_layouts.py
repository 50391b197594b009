"""Conversion of weights from the names of Hugging Face's transformers to timm's. Pure torch."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["from_transformers"]

_State = dict[str, Tensor]
_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), name) for pattern, name in pairs)


class _Layout(NamedTuple):
    """The names of the weights of a kind of network.

    Attributes:
        markers: Two keys that identify the layout, after a common prefix.
        rules: Patterns of complete keys with timm's names; the first match is used.
        finish: Function applied to the renamed tensors.
    """

    markers: tuple[str, str]
    rules: _Rules
    finish: Callable[[_State], _State]


def from_transformers(state: Mapping[str, Tensor]) -> _State | None:
    """Convert weights from transformers' names to timm's; return `None` if the layout is unknown.

    Args:
        state: Weights of a ViT, DeiT, DINOv2 (with or without registers), DINOv3, SigLIP, CLIP, ConvNeXt (V2) or
            ResNet, alone or as part of a larger network, whose other parts keep their names.

    Raises:
        ValueError: If the query, key and value tensors of a layer have different shapes.
    """
    for layout in _LAYOUTS:
        first, second = layout.markers
        for key in state:
            prefix = key.removesuffix(first)
            if key.endswith(first) and f"{prefix}{second}" in state and (not prefix or prefix.endswith(".")):
                return _translate(state, prefix, layout)
    return None


def _translate(state: Mapping[str, Tensor], prefix: str, layout: _Layout) -> _State:
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    others = {key: value for key, value in state.items() if not key.startswith(prefix)}
    renamed = {}
    for key, value in inside.items():
        matches = ((pattern.fullmatch(key), name) for pattern, name in layout.rules)
        renamed[next((match.expand(name) for match, name in matches if match), key)] = value
    return {**others, **layout.finish(renamed)}


def _fuse(state: _State) -> _State:
    """Concatenate query, key and value tensors; a missing bias of the key is 0."""
    fused = dict(state)
    for name in [key for key in state if key.endswith(".attn.q.weight")]:
        block = name.removesuffix("q.weight")
        for kind in ("weight", "bias"):
            parts = [fused.pop(f"{block}{part}.{kind}", None) for part in "qkv"]
            query, _, value = parts
            if query is None or value is None:
                continue
            joined = [torch.zeros_like(query) if part is None else part for part in parts]
            if any(part.shape != query.shape for part in joined):
                raise ValueError(f"the {kind} tensors of {block}q, k and v have different shapes.")
            fused[f"{block}qkv.{kind}"] = torch.cat(joined)
    return fused


def _vit(state: _State) -> _State:
    fused = _fuse(state)
    fused.pop("mask_token", None)  # used in pretraining only
    if "reg_token" in fused and "cls_token" in fused and "pos_embed" in fused:
        positions = fused["pos_embed"]  # timm's pos_embed is for the patches only
        fused |= {"cls_token": fused["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    return fused


def _dinov3(state: _State) -> _State:
    state = {key: value for key, value in state.items() if key != "mask_token" and "rope" not in key}
    biases = {key: state.pop(key) for key in list(state) if key.endswith((".attn.q.bias", ".attn.v.bias"))}
    fused = _fuse(state)
    if any(value.any() for value in biases.values()):  # timm has networks with and without them
        fused |= {re.sub(r"attn\.([qv])\.bias", r"attn.\1_bias", key): value for key, value in biases.items()}
    return fused


def _clip(state: _State) -> _State:
    fused = _fuse(state)
    if "pos_embed" in fused:
        fused["pos_embed"] = fused["pos_embed"][None]
    if "cls_token" in fused:
        fused["cls_token"] = fused["cls_token"].reshape(1, 1, -1)
    for kind in ("weight", "bias"):
        if (joined := fused.pop(f"attn_pool.in_proj_{kind}", None)) is not None:
            width = len(joined) // 3
            fused |= {f"attn_pool.q.{kind}": joined[:width], f"attn_pool.kv.{kind}": joined[width:]}
    return fused


def _convnext(state: _State) -> _State:
    return {key: value.flatten() if ".grn." in key else value for key, value in state.items()}


def _resnet(state: _State) -> _State:
    return {_counted(key): value for key, value in state.items()}


def _counted(key: str) -> str:
    """Return timm's name of a layer in a ResNet block; timm numbers stages and layers from 1."""
    if match := re.fullmatch(r"stage (\d+)\.(.*)", key):
        key = f"layer{int(match[1]) + 1}.{match[2]}"
    return re.sub(r"(conv|bn) (\d+)\.", lambda match: f"{match[1]}{int(match[2]) + 1}.", key)


_EMBEDDINGS = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"layernorm\.(\w+)", r"norm.\1"),
)
_VIT = _rules(
    *_EMBEDDINGS,
    (r"encoder\.layer\.(\d+)\.attention\.attention\.([qkv])\w+\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.(norm[12]|mlp\.fc[12])\.(\w+)", r"blocks.\1.\2.\3"),
)
_DINOV3 = _rules(
    *_EMBEDDINGS,
    (r"embeddings\.patch_embeddings\.(\w+)", r"patch_embed.proj.\1"),
    (r"layer\.(\d+)\.attention\.([qkv])_proj\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"layer\.(\d+)\.attention\.o_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (r"layer\.(\d+)\.mlp\.up_proj\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layer\.(\d+)\.mlp\.down_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layer\.(\d+)\.(norm[12])\.(\w+)", r"blocks.\1.\2.\3"),
)
_CLIP = _rules(
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.patch_embedding\.(\w+)", r"patch_embed.proj.\1"),
    (r"pre_layrnorm\.(\w+)", r"norm_pre.\1"),
    (r"post_layernorm\.(\w+)", r"norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.(mlp\.fc[12])\.(\w+)", r"blocks.\1.\2.\3"),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.(in_proj_\w+)", r"attn_pool.\1"),
    (r"head\.attention\.out_proj\.(\w+)", r"attn_pool.proj.\1"),
    (r"head\.layernorm\.(\w+)", r"attn_pool.norm.\1"),
    (r"head\.(mlp\.fc[12])\.(\w+)", r"attn_pool.\1.\2"),
)
_CONVNEXT = _rules(
    (r"embeddings\.patch_embeddings\.(\w+)", r"stem.0.\1"),
    (r"embeddings\.layernorm\.(\w+)", r"stem.1.\1"),
    (r"layernorm\.(\w+)", r"head.norm.\1"),
    (r"encoder\.stages\.(\d+)\.downsampling_layer\.([01])\.(\w+)", r"stages.\1.downsample.\2.\3"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm\.(\w+)", r"stages.\1.blocks.\2.norm.\3"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.pwconv([12])\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.grn\.(\w+)", r"stages.\1.blocks.\2.mlp.grn.\3"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter", r"stages.\1.blocks.\2.gamma"),
)
_RESNET = _rules(
    (r"embedder\.embedder\.convolution\.(\w+)", r"conv1.\1"),
    (r"embedder\.embedder\.normalization\.(\w+)", r"bn1.\1"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.(\w+)", r"stage \1.\2.downsample.0.\3"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.(\w+)", r"stage \1.\2.downsample.1.\3"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.(\w+)", r"stage \1.\2.conv \3.\4"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.(\w+)", r"stage \1.\2.bn \3.\4"),
)
_LAYOUTS = (
    _Layout(("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.attention.attention.query.weight"),
            _VIT, _vit),
    _Layout(("embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight"), _DINOV3, _dinov3),
    _Layout(("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"), _CLIP, _clip),
    _Layout(("embeddings.patch_embeddings.weight", "encoder.stages.0.layers.0.dwconv.weight"), _CONVNEXT, _convnext),
    _Layout(("embedder.embedder.convolution.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight"),
            _RESNET, _resnet),
)  # fmt: skip
