"""Figures in the loggers of a run, whatever their service."""

from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray

from lit_cv.callbacks.logger_senders import Sender, send_to_loggers

__all__ = ["log_figure"]


def log_figure(trainer: L.Trainer, name: str, image: NDArray[np.uint8], step: int) -> None:
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
    missing = "takes no images; figures are missing there"
    send_to_loggers(trainer, f"the figure {name}", _sender, missing, name, image, step)


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
