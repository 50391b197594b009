"""Options of fine-tuning: checks, frozen stages by epoch, and learning rates."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lit_cv.errors import OptionError, VoidOptionError, argument
from lit_cv.nn import BackboneStage, check_backbone_name, checkpoint_options, find_stage

__all__ = [
    "StrategyName",
    "backbone_learning_rate",
    "check_options",
    "checkpoint_backbone",
    "count_frozen",
    "head_learning_rate",
    "stage_learning_rates",
    "unfreezing_epoch",
]

Options = Mapping[str, Any]
StrategyName = Literal[
    "feature_extraction", "freeze_backbone", "discriminative_lr", "full_finetune", "gradual_unfreezing", "lora"
]
"""Which parts of a pretrained backbone are trained, see `lit_cv.modules.task_module.TasksModule`."""

_BACKBONE_LR = {
    "feature_extraction": 0.0,
    "freeze_backbone": 1e-4,
    "discriminative_lr": 1e-5,
    "full_finetune": 1e-4,
    "gradual_unfreezing": 1e-4,
    "lora": 1e-3,
}
_BATCH_NORM_LR = 1e-3  # of every strategy that trains weights of a backbone with BatchNorm
_LAYER_DECAY = 0.75
_STRATEGIES_OF: dict[str, tuple[str, ...]] = {  # strategies to which an option is restricted
    "frozen_stages": ("freeze_backbone", "discriminative_lr"),
    "unfreeze_epochs": ("gradual_unfreezing",),
    "cache_features": ("feature_extraction",),
    "lora_targets": ("lora",),
}
_FROZEN = ("feature_extraction", "lora")  # strategies that do not change the backbone's weights
_TRAINED_BACKBONE = ("layer_decay", "l2_sp", "drop_path", "spatial_dropout")  # options that need a trained backbone
_NEEDING_STRATEGY = ("backbone_lr", "layer_decay", "frozen_stages", "unfreeze_epochs", "l2_sp", "lora_targets")


def check_options(h: Options) -> None:
    """Raise an error for options that are out of range, or have no effect with the strategy.

    Raises:
        ValueError: If there is such an option.
    """
    strategy = h["strategy"]
    if strategy is None:
        for name in _NEEDING_STRATEGY:
            if h[name]:
                raise VoidOptionError(None, name, h[name], f"it needs a {argument('strategy')}, such as full_finetune")
        return
    if strategy not in _BACKBONE_LR:
        raise OptionError(None, "strategy", strategy, f"must be one of {', '.join(_BACKBONE_LR)}")
    for name, strategies in _STRATEGIES_OF.items():
        if h.get(name) and strategy not in strategies:
            needed = " or ".join(strategies)
            raise VoidOptionError(None, name, h[name], f"it needs strategy {needed}, not {strategy}")
    if strategy in _FROZEN:
        names = ("backbone_lr", *_TRAINED_BACKBONE) if strategy == "feature_extraction" else _TRAINED_BACKBONE
        for name in names:
            if h[name]:
                reason = f"it has no effect when the backbone is frozen ({strategy})"
                raise VoidOptionError(None, name, h[name], reason)
    if h.get("solve_head") and h["normalize_features"]:
        allowed = "it has no effect on a solved classifier (solve_head)"
        raise VoidOptionError(None, "normalize_features", True, allowed)
    limits = {"backbone_lr": (0, None), "layer_decay": (0, 1), "l2_sp": (0, None)}
    for name, (least, most) in limits.items():
        value = h[name]
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"must be at least {least}" if most is None else f"must be from {least} to {most}"
            raise OptionError(None, name, value, allowed)
    epochs = h["unfreeze_epochs"]
    numbers = epochs if isinstance(epochs, list) else [] if epochs is None else [epochs - 1]
    if any(epoch < 0 for epoch in numbers) or numbers != sorted(numbers):
        allowed = "must be a number of epochs, at least 1, or a list of ascending epochs"
        raise OptionError(None, "unfreeze_epochs", epochs, allowed)


def checkpoint_backbone(weights: str | None) -> str:
    """Return the name of the network that weights belong to, the default without weights.

    Raises:
        ValueError: If the weights do not contain it.
    """
    if weights is None:
        return "resnet9"
    name = checkpoint_options(weights).get("backbone")
    if name is None:
        raise ValueError(
            f"weights={weights!r} do not contain the name of their network: set it with {argument('backbone')}."
        )
    check_backbone_name(name, of_file=True)
    return str(name)


def head_learning_rate(h: Options) -> float:
    """Return the learning rate of the classifier, 0 if it is solved on features that do not change."""
    return 0.0 if h.get("solve_head") and h["strategy"] == "feature_extraction" else float(h["lr"])


def backbone_learning_rate(h: Options, batch_norm: bool) -> float:
    """Return the learning rate of the backbone before layer-wise decay, 0 without a strategy.

    Args:
        h: Hyperparameters of a module.
        batch_norm: Whether the backbone has BatchNorm.
    """
    if h["strategy"] is None:
        return 0.0
    if h["backbone_lr"] is not None:
        return float(h["backbone_lr"])
    lr = _BACKBONE_LR[h["strategy"]]
    return _BATCH_NORM_LR if lr and batch_norm else lr


def stage_learning_rates(h: Options, lr: float, count: int) -> list[float]:
    """Return the learning rates of `count` stages, in order from the image, from that of the backbone."""
    decay = h["layer_decay"]
    if decay is None:
        decay = _LAYER_DECAY if h["strategy"] == "discriminative_lr" else 1.0
    return [lr * decay ** (count - position) for position in range(count)]


def count_frozen(h: Options, stages: Sequence[BackboneStage], epoch: int) -> int:
    """Return the number of stages, counted from the image, that are frozen in an epoch, counted from 0.

    Raises:
        ValueError: If a number of stages is too large, or a name unknown.
    """
    count, strategy, frozen = len(stages), h["strategy"], h["frozen_stages"]
    if strategy in _FROZEN:
        return count
    if strategy == "gradual_unfreezing":
        return count - _count_unfrozen(h, stages, epoch)
    if isinstance(frozen, str):
        try:
            return find_stage(stages, frozen) + 1
        except ValueError as error:
            raise OptionError(None, "frozen_stages", frozen, str(error)) from None
    if frozen is not None:
        if not 0 <= frozen <= count:
            names = ", ".join(stage.name for stage in stages)
            raise OptionError(None, "frozen_stages", frozen, f"{h['backbone']} has {count} stages ({names})")
        return int(frozen)
    return min(count - 1, max(1, round(0.75 * count))) if strategy == "freeze_backbone" else 0


def _count_unfrozen(h: Options, stages: Sequence[BackboneStage], epoch: int) -> int:
    epochs = h["unfreeze_epochs"]
    if isinstance(epochs, list):
        if len(epochs) > len(stages):
            allowed = f"it has {len(epochs)} entries, {h['backbone']} has {len(stages)} stages"
            raise OptionError(None, "unfreeze_epochs", epochs, allowed)
        return sum(epoch >= due for due in epochs)
    return min(len(stages), epoch // (epochs or 1))


def unfreezing_epoch(h: Options, stages: Sequence[BackboneStage], position: int) -> int | None:
    """Return the epoch, counted from 0, at whose start a stage is unfrozen; `None` if it never is."""
    if h["strategy"] != "gradual_unfreezing":
        return None
    order, epochs = len(stages) - 1 - position, h["unfreeze_epochs"]
    if isinstance(epochs, list):
        return int(epochs[order]) if order < len(epochs) else None
    return int((order + 1) * (epochs or 1))
