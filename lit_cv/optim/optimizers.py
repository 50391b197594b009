"""Optimizers by name, in torch's fastest implementation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from lit_cv.errors import OptionError
from lit_cv.registry import Registry, resolve
from lit_cv.signatures import build

__all__ = ["OPTIMIZERS", "build_optimizer", "check_optimizer", "reapply_options", "scales_layers"]

OPTIMIZERS: Registry[Callable[..., Optimizer]] = Registry("optimizer", Optimizer, "lit_cv.optim")
"""The optimizers by name. Each receives the parameter groups and those arguments of `build_optimizer` it accepts."""

OPTIMIZERS.add("adam")(Adam)
OPTIMIZERS.add("adamw")(AdamW)


@OPTIMIZERS.add("sgd")
def _sgd(groups: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float, fused: bool) -> SGD:
    """Return SGD with Nesterov momentum."""
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=fused)


def check_optimizer(name: str) -> None:
    """Raise ValueError, with the nearest valid names, unless there is an optimizer with this name."""
    resolve(name, OPTIMIZERS, "optimizer")


def scales_layers(name: str) -> bool:
    """Return whether an optimizer computes its steps per layer, like LARS, and not per weight."""
    return bool(getattr(resolve(name, OPTIMIZERS, "optimizer"), "scales_layers", False))


def build_optimizer(
    name: str,
    groups: list[dict[str, Any]],
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    fused: bool | None = None,
) -> Optimizer:
    """Build an optimizer over parameter groups.

    Args:
        name: `adamw`, `adam`, `sgd` (Nesterov momentum), `lars` or `muon`; or `file.Class` for a user-defined
            `Optimizer`. Its constructor receives the groups, and `lr`, `weight_decay`, `momentum`,
            `betas` and `fused` if it accepts them.
        groups: From `parameter_groups`; the values in a group override the arguments below.
        lr: Learning rate.
        weight_decay: Weight decay: decoupled for `adamw`, added to the gradient for the others.
        momentum: Momentum of `sgd`, `lars` and `muon`.
        betas: Decay rates of the two moments of `adamw` and `adam`, and of biases and norms with `muon`.
        fused: Whether one kernel updates all parameters, 2.5 to 4 times faster on a CPU. `None` uses it if torch
            supports it. Use `False` if gradients are unscaled and clipped outside the optimizer (fp16 with clipping).

    Raises:
        ValueError: If the name is unknown, all parameters are frozen, or a value is out of range.

    Example:
        >>> from torch import nn
        >>> optimizer = build_optimizer("sgd", [{"params": list(nn.Linear(2, 2).parameters())}], lr=0.1)
        >>> optimizer.defaults["nesterov"], optimizer.defaults["fused"]
        (True, True)
    """
    kind = resolve(name, OPTIMIZERS, "optimizer")
    parameters = [parameter for group in groups for parameter in group["params"]]
    if not parameters:
        raise ValueError("there is nothing to train: every parameter is frozen.")
    _check(groups, lr, weight_decay, momentum, betas)
    if fused is None:
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    offered = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "fused": fused}
    # Copy the groups, since an optimizer adds entries to them.
    return build(kind, f"optimizer {name!r}", offered=offered, positional=([dict(group) for group in groups],))


def _check(
    groups: list[dict[str, Any]], lr: float, weight_decay: float, momentum: float, betas: tuple[float, float]
) -> None:
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not 0 <= value < math.inf:
            raise OptionError(None, name, value, "must be a number of at least 0")
    if not 0 <= momentum < 1:
        raise OptionError(None, "momentum", momentum, "must be a number in [0, 1)")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise OptionError(None, "betas", list(betas), "must be two numbers in [0, 1)")
    for group in groups:
        if not 0 <= group.get("lr", lr) < math.inf:
            raise ValueError(
                f"lr={group['lr']} of the parameter group {group.get('name')!r}: give a number of at least 0."
            )


def reapply_options(
    optimizer: Optimizer,
    groups: Sequence[dict[str, Any]],
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
) -> None:
    """Restore the options of this run after loading a checkpoint, which overwrites them.

    `Optimizer.load_state_dict` restores not only the moments but also lr, weight decay, momentum and betas. Without
    this function, a run resumed with other options would continue with the old ones. With a schedule, the learning
    rate of a group becomes its base rate; the schedule sets the current learning rate when it is loaded or at its next
    step.

    Args:
        optimizer: The restored optimizer; changed in place.
        groups: The groups that this run would build, matched by `name`.
        momentum: Momentum of this run, for optimizers that use it.
        betas: Betas of this run, for optimizers that use them.

    Raises:
        ValueError: If the names of the groups differ.
    """
    by_name = {group["name"]: group for group in groups}
    restored = [group.get("name") for group in optimizer.param_groups]
    if len(by_name) != len(groups) or sorted(by_name) != sorted(map(str, restored)):
        raise ValueError(f"the optimizer has the parameter groups {restored}, but this run has {list(by_name)}.")
    common = {"momentum": momentum, "betas": betas}
    for group in optimizer.param_groups:
        options = {key: value for key, value in common.items() if value is not None and key in group}
        options |= {key: value for key, value in by_name[group["name"]].items() if key not in ("params", "name")}
        if "initial_lr" in group and "lr" in options:
            options["initial_lr"] = options.pop("lr")
        group.update(options)
