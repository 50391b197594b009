"""Which parameters are decayed."""

from typing import Any

from torch import nn

__all__ = ["parameter_groups"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
# Parameters of two dimensions and more that are no weights of a layer: positions, tokens, scales.
_NEVER_DECAYED = ("pos_embed", "position_embed", "relative_position", "rel_pos", "token", "layer_scale")


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into those with and those without weight decay.

    Decay pulls weights towards zero, which makes sense for matrices and filters; biases, the parameters of norms,
    other vectors, position embeddings and class tokens are left alone.

    Args:
        model: Its parameters with `requires_grad`; frozen ones are left out, shared ones come once.
        lr: Learning rate of every group, positive or 0.
        weight_decay: Weight decay of the group `decay`.

    Returns:
        Groups for a torch optimizer, each with `name`, `params`, `lr`, `weight_decay` and `layer_adaptation`
        (whether LARS scales its learning rate): first `decay`, then `no_decay`, without empty ones.

    Example:
        >>> groups = parameter_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), lr=0.1, weight_decay=0.01)
        >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
        [('decay', 1, 0.01), ('no_decay', 3, 0.0)]
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            spared = (
                parameter.ndim <= 1
                or name.endswith("bias")
                or isinstance(module, _NORMS)
                or any(part in name for part in _NEVER_DECAYED)
            )
            (no_decay if spared else decay).append(parameter)
    groups: list[dict[str, Any]] = [
        {"name": "decay", "params": decay, "lr": lr, "weight_decay": weight_decay, "layer_adaptation": True},
        {"name": "no_decay", "params": no_decay, "lr": lr, "weight_decay": 0.0, "layer_adaptation": False},
    ]
    return [group for group in groups if group["params"]]
