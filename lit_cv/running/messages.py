"""Log messages on the terminal: those of this project, and a selection of Lightning's."""

import logging
import sys
import warnings
from typing import Any

from lit_cv.notebooks import in_notebook
from lit_cv.printable import printable

__all__ = ["quiet_lightning", "show_messages"]

log = logging.getLogger("lit_cv")

_NOISE = (
    r".*does not have many workers.*",
    r".*LightningCLI's args parameter.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*Trying to infer the `batch_size`.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*You have overridden `on_before_batch_transfer`.*",
    r".*is not supported by the model summary.*",
    r"Total length of `list` across ranks is zero.*",  # the DataModules report it
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*It is recommended to use `self.log.*sync_dist=True.*",
)
_CHATTER = (
    "💡",
    "GPU available: False",
    "TPU available: False",
    "Loading `train_dataloader` to estimate",
    "`weights_only` was",
    "`Trainer.fit` stopped",
    "Trainer already configured with model summary callbacks",
    "\nDetected KeyboardInterrupt",
)


def show_messages() -> None:
    """Print this project's log messages to standard error, without level or time.

    In a notebook, where standard error is shown as one, they are printed to standard output.
    """
    if not log.handlers:
        handler = _CurrentStream()
        handler.setFormatter(_Printable("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    if log.level == logging.NOTSET:  # a study has raised the level for its runs
        log.setLevel(logging.INFO)


def quiet_lightning() -> None:
    """Suppress Lightning's advertisements and its warnings that do not apply here."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    packages = (logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric"))
    for handler in (handler for logger in packages for handler in logger.handlers):
        if handler.formatter is None:
            handler.setFormatter(_Printable("%(message)s"))
        if in_notebook() and isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stdout)
    for name in ("pytorch.utilities.rank_zero", "pytorch.trainer.connectors.checkpoint_connector"):
        logger = logging.getLogger(f"lightning.{name}")
        if not any(isinstance(existing, _NoAdvertising) for existing in logger.filters):
            logger.addFilter(_NoAdvertising())


class _Printable(logging.Formatter):
    """Escapes terminal control characters: file and class names may contain them."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as printable text."""
        return printable(super().format(record))


class _CurrentStream(logging.StreamHandler[Any]):
    """Writes to the current `sys.stderr` or `sys.stdout`, which a live progress bar replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stdout if in_notebook() else sys.stderr
        super().emit(record)


class _NoAdvertising(logging.Filter):
    """Drops Lightning's tips about other products and its messages about missing hardware."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a record."""
        return not record.getMessage().startswith(_CHATTER)
