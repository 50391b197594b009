"""Low-rank updates of frozen layers (LoRA)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import OptionError

__all__ = ["add_lora", "has_lora", "lora_layers", "merge_lora", "merge_lora_state"]

_DOWN, _UP, _SCALE = "lora_down", "lora_up", "lora_scale"
_MAX_LISTED = 6


def add_lora(network: nn.Module, rank: int, alpha: float, targets: Sequence[str] | None = None) -> list[str]:
    """Add trainable low-rank updates to layers of a network, in place, and freeze everything else.

    A layer with weight W, seen as a matrix (outputs, inputs), computes with `W + alpha / rank * up @ down`. `down` is
    (rank, inputs) and random; `up` is (outputs, rank) and starts at 0, so nothing changes at first. The layers keep
    their type and keys; the state dict gains `lora_down`, `lora_up` and `lora_scale`. For convolutions, `down` has the
    layer's kernel and stride, and `up` is 1 x 1.

    Args:
        network: The network.
        rank: Rank of the updates; limited to the largest possible rank of a layer.
        alpha: Scale of the updates, in units of the rank.
        targets: Names of layers, or of modules that contain them, such as `qkv` or `blocks.11`; `None` selects all
            linear layers and ungrouped convolutions but the first, which sees the image. Frozen layers and subclasses
            of these layer types are skipped.

    Returns:
        The paths of the updated layers.

    Raises:
        ValueError: If a value is out of range, or a target matches no layer that can be updated.

    Reference: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4))
        >>> add_lora(network, rank=2, alpha=4)
        ['2']
        >>> sum(p.numel() for p in network.parameters() if p.requires_grad)
        24
    """
    if rank < 1:
        raise OptionError(None, "lora_rank", rank, "must be at least 1")
    if not 0 < alpha < math.inf:
        raise OptionError(None, "lora_alpha", alpha, "must be a positive number")
    layers = dict(_candidates(network))
    if targets is None:
        chosen = list(layers)[1:]
    else:
        chosen = [path for path in layers if any(f".{target}." in f".{path}." for target in targets)]
        for target in targets:
            if not any(f".{target}." in f".{path}." for path in layers):
                parts = ((path, path.rpartition(".")[2]) for path in layers)
                names = dict.fromkeys(path if name.isdigit() else name for path, name in parts)
                listed = ", ".join([*names][:_MAX_LISTED]) or "none"
                raise OptionError(
                    None, "lora_targets", target, f"must be names of linear layers or convolutions, such as {listed}"
                )
    if not chosen:
        raise OptionError(None, "lora_targets", targets, f"{type(network).__name__} has no layer that can be updated")
    network.requires_grad_(False)
    for path in chosen:
        _attach(layers[path], rank, alpha)
    return chosen


def lora_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers with a low-rank update, in the order of the network."""
    return [module for module in network.modules() if _DOWN in module._parameters]


def has_lora(state: Mapping[str, Any]) -> bool:
    """Return whether a state dict holds low-rank updates."""
    return any(key.endswith(f".{_DOWN}") or key == _DOWN for key in state)


@torch.no_grad()
def merge_lora(network: nn.Module) -> None:
    """Merge the low-rank updates into the weights, in place, and remove them; the outputs do not change."""
    for layer in lora_layers(network):
        weight = cast(Tensor, layer.weight)
        weight.copy_(_merged(weight, *(cast(Tensor, getattr(layer, name)) for name in (_DOWN, _UP, _SCALE))))
        for handle in [key for key, hook in layer._forward_hooks.items() if hook is _add_update]:
            del layer._forward_hooks[handle]
        for name in (_DOWN, _UP, _SCALE):
            delattr(layer, name)


def merge_lora_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a state dict with the low-rank updates, if any, merged into the weights.

    Raises:
        ValueError: If an update has no weight in the state dict, or their shapes do not match.
    """
    merged = dict(state)
    for key in [key for key in state if key.endswith(_DOWN)]:
        layer = key.removesuffix(_DOWN)
        parts = [merged.pop(f"{layer}{name}", None) for name in (_DOWN, _UP, _SCALE)]
        weight = merged.get(f"{layer}weight")
        if weight is None or any(part is None for part in parts):
            raise ValueError(f"{key} is an update of {layer}weight, which is missing or incomplete.")
        down, up, scale = (part for part in parts if part is not None)
        if min(down.ndim, up.ndim, weight.ndim) < 2 or up[0, :1].numel() != 1 or scale.numel() != 1:
            raise ValueError(f"{key} is not a low-rank update of {layer}weight.")
        if (len(up), up.shape[1], down.shape[1:]) != (len(weight), len(down), weight.shape[1:]):
            raise ValueError(f"{key} {tuple(down.shape)} does not fit {layer}weight {tuple(weight.shape)}.")
        merged[f"{layer}weight"] = _merged(weight, down, up, scale)
    return merged


def _candidates(network: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Yield the trainable layers of exactly these types; a subclass may compute something else."""
    for path, module in network.named_modules():
        plain = type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
        if plain and cast(Tensor, module.weight).requires_grad:
            yield path, cast(nn.Linear | nn.Conv2d, module)


def _attach(layer: nn.Linear | nn.Conv2d, rank: int, alpha: float) -> None:
    weight = layer.weight
    layer_rank = min(rank, len(weight), weight[0].numel())
    down = weight.new_empty(layer_rank, *weight.shape[1:])
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    layer.register_parameter(_DOWN, nn.Parameter(down))
    layer.register_parameter(_UP, nn.Parameter(weight.new_zeros(len(weight), layer_rank, *[1] * (weight.ndim - 2))))
    layer.register_buffer(_SCALE, torch.tensor(alpha / rank, device=weight.device))
    layer.register_forward_hook(_add_update)


def _add_update(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    down, up, scale = (cast(Tensor, getattr(layer, name)) for name in (_DOWN, _UP, _SCALE))
    if isinstance(layer, nn.Conv2d):
        update = F.conv2d(layer._conv_forward(inputs[0], down, None), up)
    else:
        update = F.linear(F.linear(inputs[0], down), up)
    return output + scale.to(update.dtype) * update


def _merged(weight: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
    update = scale.double() * (up.flatten(1).double() @ down.flatten(1).double())
    return (weight.double() + update.view_as(weight)).to(weight.dtype)
