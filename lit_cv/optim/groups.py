"""Parameter groups by weight decay and learning rate."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn

__all__ = ["Layer", "layer_groups", "parameter_groups"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
# Parameters with at least two dimensions that are not weights of a layer: positions, tokens, scales.
_NEVER_DECAYED = ("pos_embed", "position_embed", "relative_position", "rel_pos", "token", "layer_scale")


class Layer(NamedTuple):
    """Parameters that share a learning rate.

    Attributes:
        name: Name of the layer in the log of learning rates.
        parameters: The parameters.
        lr: Learning rate, at least 0.
        weight_decay: Weight decay of the parameters that are decayed.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    lr: float
    weight_decay: float


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into groups with and without weight decay.

    Matrices and filters are decayed. Biases, the parameters of norms, other vectors, position embeddings and class
    tokens are not.

    Args:
        model: The network. Frozen parameters are skipped; shared parameters are in one group only.
        lr: Learning rate of every group, at least 0.
        weight_decay: Weight decay of the group `decay`.

    Returns:
        Groups for a torch optimizer, each with `name`, `params`, `lr`, `weight_decay` and `layer_adaptation`
        (whether LARS scales its learning rate): `decay`, then `no_decay`, without empty groups.

    Example:
        >>> groups = parameter_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), lr=0.1, weight_decay=0.01)
        >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
        [('decay', 1, 0.01), ('no_decay', 3, 0.0)]
    """
    return _split(_undecayed(model), list(model.parameters()), lr, weight_decay, prefix="")


def layer_groups(model: nn.Module, layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Split layers with different learning rates into groups, each as in `parameter_groups`.

    Args:
        model: The network that the parameters belong to.
        layers: The layers in the order of their groups. Frozen parameters are skipped; a parameter in several layers
            belongs to the first.

    Returns:
        Groups as from `parameter_groups`, with the names `LAYER.decay` and `LAYER.no_decay`, and the name of the
        layer as `layer`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> layers = [Layer("head", list(model[1].parameters()), 0.1, 0.0), Layer("stem", [model[0].weight], 0.01, 0.0)]
        >>> [(group["name"], group["lr"]) for group in layer_groups(model, layers)]
        [('head.decay', 0.1), ('head.no_decay', 0.1), ('stem.decay', 0.01)]
    """
    undecayed, seen = _undecayed(model), set[nn.Parameter]()
    groups: list[dict[str, Any]] = []
    for layer in layers:
        parameters = [parameter for parameter in layer.parameters if parameter not in seen]
        seen.update(parameters)
        split = _split(undecayed, parameters, layer.lr, layer.weight_decay, prefix=f"{layer.name}.")
        groups += [{**group, "layer": layer.name} for group in split]
    return groups


def _undecayed(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that are never decayed; for shared parameters, the first occurrence decides."""
    undecayed: set[nn.Parameter] = set()
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in seen and (
                parameter.ndim <= 1
                or name.endswith("bias")
                or isinstance(module, _NORMS)
                or any(part in name for part in _NEVER_DECAYED)
            ):
                undecayed.add(parameter)
            seen.add(parameter)
    return undecayed


def _split(
    undecayed: set[nn.Parameter], parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, prefix: str
) -> list[dict[str, Any]]:
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    decay = [parameter for parameter in trainable if parameter not in undecayed]
    no_decay = [parameter for parameter in trainable if parameter in undecayed]
    groups = [
        {"name": f"{prefix}decay", "params": decay, "lr": lr, "weight_decay": weight_decay, "layer_adaptation": True},
        {"name": f"{prefix}no_decay", "params": no_decay, "lr": lr, "weight_decay": 0.0, "layer_adaptation": False},
    ]
    return [group for group in groups if group["params"]]
