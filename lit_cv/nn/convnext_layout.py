"""Names of ConvNeXt's weights in timm's files, turned into torchvision's. Pure torch."""

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["convnext_to_torchvision"]

_FIRST = "stages.0.blocks.0.conv_dw.weight"
_STAGE = re.compile(r"stages\.(\d+)\.(downsample|blocks)\.(\d+)\.(.*)")
_LAYERS = {"conv_dw.": "block.0.", "norm.": "block.2.", "mlp.fc1.": "block.3.", "mlp.fc2.": "block.5."}
_ENDS = {"stem.": "features.0.", "head.norm.": "classifier.0."}


def convnext_to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under timm's names as torchvision names and shapes them; others as they are."""
    if _FIRST not in state:
        return dict(state)
    return {_renamed(key): _shaped(key, value) for key, value in state.items()}


def _renamed(key: str) -> str:
    if (match := _STAGE.fullmatch(key)) is None:
        return next((theirs + key.removeprefix(ours) for ours, theirs in _ENDS.items() if key.startswith(ours)), key)
    stage, number, rest = int(match[1]), match[3], match[4]
    if match[2] == "downsample":
        return f"features.{2 * stage}.{number}.{rest}"
    if rest == "gamma":
        rest = "layer_scale"
    for ours, theirs in _LAYERS.items():
        if rest.startswith(ours):
            rest = theirs + rest.removeprefix(ours)
    return f"features.{2 * stage + 1}.{number}.{rest}"


def _shaped(key: str, value: Tensor) -> Tensor:
    return value.reshape(-1, 1, 1) if key.endswith(".gamma") else value
