"""The monitored metric: its value, its direction and comparisons."""

import logging
import math
import re

import lightning as L

from lit_cv.contracts import as_checkpoint, as_module
from lit_cv.errors import argument
from lit_cv.metrics.chosen import ChosenMetric
from lit_cv.suggest import nearest

__all__ = ["is_better", "mode_of", "monitor_and_mode", "monitored_value"]

log = logging.getLogger("lit_cv")

_LESS = r"loss|error|err|ece|nll|mae|mse|rmse|entropy|perplexity|alignment|uniformity|distance|ci95|fid|lpips"
_MORE = (
    r"acc|accuracy|f1|top\d+|m?ap(50|75)?|mar|m?iou|dice|r2|score|rankme|diversity|precision|recall|auc|auroc|kappa|mcc|"
    r"psnr|ssim"
)


def monitored_value(trainer: L.Trainer, monitor: str | None) -> float | None:
    """Return the newest value of the metric `monitor`.

    Args:
        trainer: The Trainer, whose `callback_metrics` hold the logged metrics.
        monitor: Name of the metric; `None` returns `None`.

    Returns:
        The value, or `None` if validation has not run yet.

    Raises:
        ValueError: If validation has run without logging a metric of that name.
    """
    if monitor is None:
        return None
    value = trainer.callback_metrics.get(monitor)
    if value is not None:
        return float(value)
    if any(name.startswith("val_") for name in trainer.callback_metrics):
        raise ValueError(
            f"no metric {monitor!r} was logged{nearest(monitor, trainer.callback_metrics)} "
            f"Logged metrics: {', '.join(sorted(trainer.callback_metrics))}."
        )
    return None


def monitor_and_mode(trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[str | None, str]:
    """Return name and mode of the metric that selects the best epoch, from the checkpoint callback or the module."""
    checkpoint, module = as_checkpoint(trainer.checkpoint_callback), as_module(pl_module)
    if monitor := checkpoint.monitor:
        return monitor, checkpoint.mode or mode_of(monitor, pl_module)
    return module.monitor, module.mode


def mode_of(monitor: str | None, pl_module: L.LightningModule, owner: object = None) -> str:
    """Return whether smaller (`min`) or greater (`max`) values of a metric are better.

    The module's or the metric's own definition comes first, then a guess from the metric's name.

    Args:
        monitor: Name of the metric.
        pl_module: The module.
        owner: Callback whose `mode` sets it, for the warning if the name is inconclusive; `None` for no warning.

    Example:
        >>> class Module(L.LightningModule):
        ...     monitor, mode = "val_acc", "max"
        >>> mode_of("val_acc", Module()), mode_of("val_shape_loss", Module())
        ('max', 'min')
    """
    module_mode = as_module(pl_module).mode
    if monitor is None or monitor == as_module(pl_module).monitor:
        return module_mode
    if (higher := _higher_is_better(monitor, pl_module)) is not None:
        return "max" if higher else "min"
    less, more = (re.search(rf"(?<![^\W_])({words})(?![^\W_])", monitor.lower()) for words in (_LESS, _MORE))
    if bool(less) != bool(more):
        return "min" if less else "max"
    if owner is not None:
        direction = "smaller" if module_mode == "min" else "greater"
        mode = argument("mode", owner)
        log.warning("%s: assuming that %s values are better. Set %s to min or max.", monitor, direction, mode)
    return module_mode


def _higher_is_better(monitor: str, pl_module: L.LightningModule) -> bool | None:
    """Return `higher_is_better` of a metric that the user has added, `None` for others."""
    for path, part in pl_module.named_modules():
        if isinstance(part, ChosenMetric) and monitor.endswith(f"_{path.rpartition('.')[2]}"):
            return part.metric.higher_is_better
    return None


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Return whether a value is at least as good as the best one so far; NaN and infinity never are.

    A loss of minus infinity, from broken weights, would otherwise stay the best forever. Of equal values the later one
    wins: it comes from longer training and a smaller learning rate.

    Example:
        >>> is_better(0.5, None, "max"), is_better(0.5, 0.4, "min"), is_better(float("nan"), None, "min")
        (True, False, False)
        >>> is_better(0.5, 0.5, "max")
        True
    """
    if not math.isfinite(value):
        return False
    if best is None or not math.isfinite(best):
        return True
    return value <= best if mode == "min" else value >= best
