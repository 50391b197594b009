"""The metric that a module is judged by."""

import lightning as L

from lit_cv.suggest import nearest

__all__ = ["monitored_value"]


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
