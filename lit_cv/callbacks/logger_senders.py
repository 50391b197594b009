"""Sending to the loggers of a run, whatever their service."""

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from lit_cv.callbacks.error_guard import guarded
from lit_cv.metrics_csv import MetricsCSVLogger

__all__ = ["Sender", "has_loggers", "report_once", "send_to_loggers"]

Sender = Callable[..., Any]

log = logging.getLogger("lit_cv")

_reported: "WeakKeyDictionary[Logger, set[str]]" = WeakKeyDictionary()


def has_loggers(trainer: L.Trainer) -> bool:
    """Return whether a Trainer logs anything; the loggers of a dry run do not."""
    return any(not isinstance(logger, DummyLogger) for logger in trainer.loggers)


def send_to_loggers(
    trainer: L.Trainer, what: str, find_sender: Callable[[Logger], Sender | None], missing: str, *content: Any
) -> None:
    """Send something to every logger that takes it; the log names the others once.

    An error in one logger does not keep it from the others. Loggers of a dry run and of `metrics.csv` are left out.

    Args:
        trainer: The Trainer, with its loggers.
        what: What is sent, for messages, such as "the figure val/predictions".
        find_sender: Returns the function that sends `content` to a logger, `None` if there is no way to.
        missing: The message about a logger without such a function, after the name of its class.
        *content: Arguments of that function.
    """
    for logger in trainer.loggers:
        if isinstance(logger, DummyLogger | MetricsCSVLogger):
            continue
        with guarded(f"Sending {what} to {type(logger).__name__}"):
            send = find_sender(logger)
            if send is None:
                report_once(logger, missing)
            else:
                send(*content)


def report_once(logger: Logger, reason: str) -> None:
    """Log once for each logger what it cannot show.

    Args:
        logger: The logger.
        reason: The message after the name of its class.
    """
    reasons = _reported.setdefault(logger, set())
    if reason not in reasons:
        reasons.add(reason)
        log.info("%s %s.", type(logger).__name__, reason)
