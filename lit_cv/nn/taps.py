"""Outputs of layers within a network, kept for a look beside the forward pass."""

from typing import Any

from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.suggest import nearest

__all__ = ["LayerTaps"]


class LayerTaps:
    """Keeps what chosen layers of a network put out in its last forward pass; maps are averaged over their pixels.

    Args:
        network: The network.
        names: Names of its modules, as in `network.named_modules()`.

    Attributes:
        outputs: (N, D) of each layer by its name.

    Raises:
        ValueError: If there is no such module.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        >>> taps = LayerTaps(network, ["0"])
        >>> _ = network(torch.zeros(2, 1, 5, 5))
        >>> taps.outputs["0"].shape
        torch.Size([2, 4])
    """

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        modules = dict(network.named_modules())
        self.outputs: dict[str, Tensor] = {}
        for name in names:
            if not name or name not in modules:
                raise OptionError(None, "layers", name, f"there is no such layer{nearest(name, modules)}")
            modules[name].register_forward_hook(_Keep(self, name))

    def __getstate__(self) -> dict[str, Any]:
        return {"outputs": {}}  # a graph cannot be copied


class _Keep:
    """A hook that can be pickled, which a local function cannot."""

    def __init__(self, taps: LayerTaps, name: str) -> None:
        self.taps, self.name = taps, name

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.taps.outputs[self.name] = output.flatten(2).mean(2) if output.ndim > 3 else output.flatten(1)
