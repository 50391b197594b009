"""Stochastic depth for backbones with residual branches."""

import re

from torch import nn
from torchvision.ops import StochasticDepth

from lit_cv.errors import OptionError

__all__ = ["set_stochastic_depth"]

_NAME = re.compile(r"drop_path\d*")  # timm's name; an identity if it is off


def set_stochastic_depth(body: nn.Module, rate: float) -> None:
    """Set the probability of dropping the residual branches of a network, in place (Huang et al. 2016).

    The probability rises linearly from 0 at the first block to `rate` at the last. In training, a branch is dropped
    per image, and the branches that are kept are scaled up.

    Args:
        body: A torchvision network with stochastic depth (convnext, efficientnet, swin, maxvit), or a network whose
            blocks have a module `drop_path`, such as timm's and lit_cv's vision transformers.
        rate: Probability at the last block, in [0, 1); 0 turns stochastic depth off.

    Raises:
        ValueError: If the probability is out of range, or the network has no such branches.

    Example:
        >>> from lit_cv.nn import create_backbone
        >>> body = create_backbone("convnext_tiny").body
        >>> set_stochastic_depth(body, 0.4)
        >>> body.features[7][2].stochastic_depth.p
        0.4
    """
    if not 0 <= rate < 1:
        raise OptionError(None, "drop_path", rate, "must be a probability in [0, 1)")
    blocks = [
        (parent, names)
        for parent in body.modules()
        if (names := [name for name, child in parent.named_children() if _drops(name, child)])
    ]
    if not blocks:
        raise ValueError(f"{type(body).__name__} does not support stochastic depth: leave drop_path out.")
    for position, (parent, names) in enumerate(blocks):
        for name in names:
            setattr(parent, name, StochasticDepth(rate * position / max(1, len(blocks) - 1), "row"))


def _drops(name: str, module: nn.Module) -> bool:
    return isinstance(module, StochasticDepth) or _NAME.fullmatch(name) is not None
