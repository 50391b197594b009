"""Conversion of ConvNeXt weights from timm's names to torchvision's. Pure torch."""

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["convnext_to_torchvision"]

_FIRST = "stages.0.blocks.0.conv_dw.weight"
_STAGE = re.compile(r"stages\.(\d+)\.(downsample|blocks)\.(\d+)\.(.*)")
_LAYERS = {"conv_dw.": "block.0.", "norm.": "block.2.", "mlp.fc1.": "block.3.", "mlp.fc2.": "block.5."}
_ENDS = {"stem.": "features.0.", "head.norm.": "classifier.0."}


def convnext_to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights from timm's names and shapes to torchvision's; return other weights unchanged."""
    if _FIRST not in state:
        return dict(state)
    return {_torchvision_name(key): _torchvision_shape(key, value) for key, value in state.items()}


def _torchvision_name(key: str) -> str:
    if (match := _STAGE.fullmatch(key)) is None:
        return next((new + key.removeprefix(old) for old, new in _ENDS.items() if key.startswith(old)), key)
    stage, number, name = int(match[1]), match[3], match[4]
    if match[2] == "downsample":
        return f"features.{2 * stage}.{number}.{name}"
    if name == "gamma":
        name = "layer_scale"
    for old, new in _LAYERS.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return f"features.{2 * stage + 1}.{number}.{name}"


def _torchvision_shape(key: str, value: Tensor) -> Tensor:
    return value.reshape(-1, 1, 1) if key.endswith(".gamma") else value
