"""The metric that a module is judged by."""

import math

import lightning as L

from lit_cv.suggest import nearest

__all__ = ["is_better", "monitor_and_mode", "monitored_value"]


def monitored_value(trainer: L.Trainer, monitor: str | None) -> float | None:
    """Return the newest value of the metric `monitor`.

    Args:
        trainer: The Trainer, whose `callback_metrics` hold what was logged.
        monitor: Name of the metric; `None` gives `None`.

    Returns:
        The value, or `None` while validation has not run yet.

    Raises:
        ValueError: If validation has run and logged no metric of that name.
    """
    if monitor is None:
        return None
    value = trainer.callback_metrics.get(monitor)
    if value is not None:
        return float(value)
    if any(name.startswith("val_") for name in trainer.callback_metrics):
        raise ValueError(
            f"no metric {monitor!r} was logged{nearest(monitor, trainer.callback_metrics)} "
            f"Logged were: {', '.join(sorted(trainer.callback_metrics))}."
        )
    return None


def monitor_and_mode(trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[str | None, str]:
    """Return the metric that decides which epoch is the best, by the checkpoints or by the module."""
    checkpoint = trainer.checkpoint_callback
    if monitor := getattr(checkpoint, "monitor", None):
        return monitor, getattr(checkpoint, "mode", None) or "min"
    return getattr(pl_module, "monitor", None), getattr(pl_module, "mode", "min")


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Return whether a value is at least as good as the best one so far; NaN and infinity never are.

    A loss of minus infinity, of broken weights, would stay the best for ever. Of equal values the later is taken: it
    comes from more training, and at a smaller learning rate.

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
