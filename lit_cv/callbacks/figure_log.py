"""Figures in the loggers of a run, whatever their service."""

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import lightning as L
import numpy as np
from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from numpy.typing import NDArray

from lit_cv.callbacks.error_guard import guarded
from lit_cv.metrics_csv import MetricsCSVLogger

__all__ = ["has_loggers", "log_figure", "report_once"]

Pixels = NDArray[np.uint8]
Sender = Callable[[str, Pixels, int], Any]

log = logging.getLogger("lit_cv")

_reported: "WeakSet[Logger]" = WeakSet()


def has_loggers(trainer: L.Trainer) -> bool:
    """Return whether a Trainer logs anything; the loggers of a dry run do not."""
    return any(not isinstance(logger, DummyLogger) for logger in trainer.loggers)


def log_figure(trainer: L.Trainer, name: str, image: Pixels, step: int) -> None:
    """Send a figure to every logger that takes images; the log names the others once.

    TensorBoard, Weights & Biases, MLflow and Comet are supported, and loggers with `log_image(key, images, step)`, or
    whose `experiment` has `log_image(image, name=, step=)` or `add_image(tag, image, step, dataformats=)`. An error in
    one logger does not keep the figure from the others. Call it on rank 0 only.

    Args:
        trainer: The Trainer, with its loggers.
        name: Name of the figure, `STAGE/NAME`, such as `val/predictions`.
        image: Pixels, (height, width, 3) uint8.
        step: Optimizer step of the figure.
    """
    for logger in trainer.loggers:
        if isinstance(logger, DummyLogger | MetricsCSVLogger):
            continue
        with guarded(f"Sending the figure {name} to {type(logger).__name__}"):
            send = _sender(logger)
            if send is None:
                report_once(logger, "takes no images; figures are missing there")
            else:
                send(name, image, step)


def report_once(logger: Logger, reason: str) -> None:
    """Log once for each logger what it cannot show.

    Args:
        logger: The logger.
        reason: The message after the name of its class.
    """
    if logger not in _reported:
        _reported.add(logger)
        log.info("%s %s.", type(logger).__name__, reason)


def _sender(logger: Logger) -> Sender | None:
    """Return a function of name, pixels and step that sends a figure to a logger, `None` if there is no way to."""
    if isinstance(logger, TensorBoardLogger):
        return _add_image(logger.experiment)
    if isinstance(logger, MLFlowLogger):
        return _send_to_mlflow(logger)
    if isinstance(logger, CometLogger):
        return _log_named_image(logger.experiment)
    if isinstance(logger, WandbLogger) or callable(getattr(logger, "log_image", None)):
        several: Any = logger
        return lambda name, image, step: several.log_image(name, [image], step=step)
    experiment = getattr(logger, "experiment", None)
    if callable(getattr(experiment, "log_image", None)):
        return _log_named_image(experiment)
    return _add_image(experiment) if callable(getattr(experiment, "add_image", None)) else None


def _add_image(experiment: Any) -> Sender:
    return lambda name, image, step: experiment.add_image(name, image, step, dataformats="HWC")


def _log_named_image(experiment: Any) -> Sender:
    return lambda name, image, step: experiment.log_image(image, name=name, step=step)


def _send_to_mlflow(logger: MLFlowLogger) -> Sender:
    client: Any = logger.experiment
    return lambda name, image, step: client.log_image(logger.run_id, image, key=name, step=step)
