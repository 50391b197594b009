"""Access to the outputs of inner layers of a network."""

from typing import Any

from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.suggest import nearest

__all__ = ["LayerTaps"]


class LayerTaps:
    """The outputs of chosen layers in a network's last forward pass; maps are averaged over their pixels.

    Args:
        network: The network.
        names: Names of its modules, as in `network.named_modules()`.

    Attributes:
        outputs: Outputs (N, D) by layer name.

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
        return {"outputs": {}}  # tensors with an autograd graph cannot be copied


class _Keep:
    """A hook that can be pickled, unlike a local function."""

    def __init__(self, taps: LayerTaps, name: str) -> None:
        self.taps, self.name = taps, name

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.taps.outputs[self.name] = output.flatten(2).mean(2) if output.ndim > 3 else output.flatten(1)
