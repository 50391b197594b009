"""Conversion of EfficientNet weights (TensorFlow's) from EfficientNet-PyTorch's names to timm's. Pure torch."""

import re
from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

__all__ = ["from_efficientnet_pytorch", "is_efficientnet_pytorch"]

_STEM = "_conv_stem.weight"
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(.*)")
_PARTS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
# A block without an expansion lacks the first convolution, so timm numbers its other layers differently.
_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def is_efficientnet_pytorch(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights have the names of EfficientNet-PyTorch."""
    return _STEM in state and any(_BLOCK.fullmatch(key) for key in state)


def from_efficientnet_pytorch(source: str, state: Mapping[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Convert weights from EfficientNet-PyTorch's names to timm's.

    Args:
        source: Source of the weights, for error messages.
        state: Weights under EfficientNet-PyTorch's names.
        body: The target network; its stages determine the block numbers.

    Raises:
        ValueError: If the network is not a timm model with TensorFlow's padding.
    """
    stages = getattr(body, "blocks", None)
    convolution = getattr(body, "conv_stem", None)
    if not isinstance(stages, nn.Sequential) or not isinstance(convolution, nn.Conv2d):
        raise ValueError(
            f"{source} holds EfficientNet weights in the format of EfficientNet-PyTorch: choose timm's network, such "
            "as timm/tf_efficientnet_b0 or efficientnet_lite0."
        )
    if type(convolution) is nn.Conv2d:
        raise ValueError(
            f"{source} holds weights of TensorFlow's EfficientNet, whose padding differs from this network's: "
            "choose the name with tf_, such as timm/tf_efficientnet_b0."
        )
    places = [(stage, n) for stage, blocks in enumerate(stages) for n in range(len(cast(nn.Sequential, blocks)))]
    expanded = {int(match[1]) for key in state if (match := _BLOCK.fullmatch(key)) and match[2] == "_expand_conv"}

    def renamed(key: str) -> str:
        if (match := _BLOCK.fullmatch(key)) is None:
            part, _, tensor = key.partition(".")
            return f"{_PARTS[part]}.{tensor}" if part in _PARTS else key
        number, part = int(match[1]), match[2]
        names = _SQUEEZE | (_EXPANDED if number in expanded else _PLAIN)
        if number >= len(places) or part not in names:
            return key
        stage, position = places[number]
        return f"blocks.{stage}.{position}.{names[part]}.{match[3]}"

    return {renamed(key): value for key, value in state.items()}
