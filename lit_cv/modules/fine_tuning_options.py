"""What the options of fine-tuning mean: which stages are frozen when, and how fast the others learn."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lit_cv.errors import OptionError, VoidOptionError, argument
from lit_cv.nn import Stage, check_backbone_name, checkpoint_options, find_stage

__all__ = [
    "StrategyName",
    "backbone_rate",
    "backbone_rates",
    "check_options",
    "checkpoint_backbone",
    "count_frozen",
    "epoch_of_unfreezing",
    "head_rate",
]

Options = Mapping[str, Any]
StrategyName = Literal[
    "feature_extraction", "freeze_backbone", "discriminative_lr", "full_finetune", "gradual_unfreezing", "lora"
]
"""What of a pretrained backbone learns, see `lit_cv.modules.task_module.TasksModule`."""

_BACKBONE_LR = {
    "feature_extraction": 0.0,
    "freeze_backbone": 1e-4,
    "discriminative_lr": 1e-5,
    "full_finetune": 1e-4,
    "gradual_unfreezing": 1e-4,
    "lora": 1e-3,
}
_LAYER_DECAY = 0.75
# Options that only some strategies have.
_BELONGS: dict[str, tuple[str, ...]] = {
    "frozen_stages": ("freeze_backbone", "discriminative_lr"),
    "unfreeze_epochs": ("gradual_unfreezing",),
    "cache_features": ("feature_extraction",),
    "lora_targets": ("lora",),
}
_FROZEN = ("feature_extraction", "lora")  # strategies that leave the weights of the backbone as they are
_LEARNING_BACKBONE = ("layer_decay", "l2_sp", "drop_path", "spatial_dropout")
_NEEDING_STRATEGY = ("backbone_lr", "layer_decay", "frozen_stages", "unfreeze_epochs", "l2_sp", "lora_targets")


def check_options(h: Options) -> None:
    """Refuse options that are out of range, or have no effect with the strategy.

    Raises:
        ValueError: If there are such.
    """
    strategy = h["strategy"]
    if strategy is None:
        for name in _NEEDING_STRATEGY:
            if h[name]:
                raise VoidOptionError(None, name, h[name], f"it needs a {argument('strategy')}, such as full_finetune")
        return
    if strategy not in _BACKBONE_LR:
        raise OptionError(None, "strategy", strategy, f"give one of {', '.join(_BACKBONE_LR)}")
    for name, strategies in _BELONGS.items():
        if h.get(name) and strategy not in strategies:
            raise VoidOptionError(None, name, h[name], f"it is for strategy {' and '.join(strategies)}, not {strategy}")
    if strategy in _FROZEN:
        for name in ("backbone_lr", *_LEARNING_BACKBONE) if strategy == "feature_extraction" else _LEARNING_BACKBONE:
            if h[name]:
                reason = f"it has no effect where the backbone is frozen ({strategy})"
                raise VoidOptionError(None, name, h[name], reason)
    if h.get("solve_head") and h["normalize_features"]:
        allowed = "it has no effect on a classifier that is solved (solve_head)"
        raise VoidOptionError(None, "normalize_features", True, allowed)
    limits = {"backbone_lr": (0, None), "layer_decay": (0, 1), "l2_sp": (0, None)}
    for name, (least, most) in limits.items():
        value = h[name]
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"from {least} on" if most is None else f"from {least} to {most}"
            raise OptionError(None, name, value, f"give a number {allowed}")
    epochs = h["unfreeze_epochs"]
    given = epochs if isinstance(epochs, list) else [] if epochs is None else [epochs - 1]
    if any(epoch < 0 for epoch in given) or given != sorted(given):
        raise OptionError(
            None, "unfreeze_epochs", epochs, "give a number of epochs from 1 on, or a list of rising ones"
        )


def checkpoint_backbone(weights: str | None) -> str:
    """Return the name of the network whose weights these are.

    Raises:
        ValueError: If they do not tell.
    """
    if weights is None:
        return "resnet9"
    name = checkpoint_options(weights).get("backbone")
    if name is None:
        raise ValueError(
            f"weights={weights!r} do not tell of which network they are: give its name ({argument('backbone')})."
        )
    check_backbone_name(name, of_file=True)
    return str(name)


def head_rate(h: Options) -> float:
    """Return the learning rate of the classifier, 0 where it is solved and nothing moves the features under it."""
    return 0.0 if h.get("solve_head") and h["strategy"] == "feature_extraction" else float(h["lr"])


def backbone_rate(h: Options) -> float:
    """Return the learning rate of the backbone before layer-wise decay, 0 without a strategy."""
    if h["strategy"] is None:
        return 0.0
    return float(_BACKBONE_LR[h["strategy"]] if h["backbone_lr"] is None else h["backbone_lr"])


def backbone_rates(h: Options, count: int) -> list[float]:
    """Return the learning rates of `count` stages, from the image on."""
    decay = h["layer_decay"]
    if decay is None:
        decay = _LAYER_DECAY if h["strategy"] == "discriminative_lr" else 1.0
    return [backbone_rate(h) * decay ** (count - position) for position in range(count)]


def count_frozen(h: Options, stages: Sequence[Stage], epoch: int) -> int:
    """Return how many stages, counted from the image, are frozen in an epoch, counted from 0.

    Raises:
        ValueError: If a number of stages is too great, or a name unknown.
    """
    count, strategy, given = len(stages), h["strategy"], h["frozen_stages"]
    if strategy in _FROZEN:
        return count
    if strategy == "gradual_unfreezing":
        return count - _count_freed(h, stages, epoch)
    if isinstance(given, str):
        try:
            return find_stage(stages, given) + 1
        except ValueError as error:
            raise OptionError(None, "frozen_stages", given, str(error)) from None
    if given is not None:
        if not 0 <= given <= count:
            names = ", ".join(stage.name for stage in stages)
            raise OptionError(None, "frozen_stages", given, f"{h['backbone']} has {count} stages ({names})")
        return int(given)
    return min(count - 1, max(1, round(0.75 * count))) if strategy == "freeze_backbone" else 0


def _count_freed(h: Options, stages: Sequence[Stage], epoch: int) -> int:
    epochs = h["unfreeze_epochs"]
    if isinstance(epochs, list):
        if len(epochs) > len(stages):
            allowed = f"it has {len(epochs)} entries, {h['backbone']} has {len(stages)} stages"
            raise OptionError(None, "unfreeze_epochs", epochs, allowed)
        return sum(epoch >= due for due in epochs)
    return min(len(stages), epoch // (epochs or 1))


def epoch_of_unfreezing(h: Options, stages: Sequence[Stage], position: int) -> int | None:
    """Return the epoch, counted from 0, at whose start a stage is freed; `None` where that never happens."""
    if h["strategy"] != "gradual_unfreezing":
        return None
    order, epochs = len(stages) - 1 - position, h["unfreeze_epochs"]
    if isinstance(epochs, list):
        return int(epochs[order]) if order < len(epochs) else None
    return int((order + 1) * (epochs or 1))
