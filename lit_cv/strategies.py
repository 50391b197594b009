"""Checks and workarounds for Lightning's strategies for several devices."""

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lit_cv.errors import TRAINER, setting

__all__ = ["require_replicated_weights", "stop_watching_ranks"]


def require_replicated_weights(trainer: L.Trainer, what: str, otherwise: str) -> None:
    """Check that every rank holds all weights and gradients, which FSDP shards.

    Args:
        trainer: The Trainer.
        what: What needs them, with its option; the error begins with it.
        otherwise: An alternative remedy.

    Raises:
        ValueError: If the Trainer's strategy shards weights or gradients.
    """
    strategy = type(trainer.strategy).__name__
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ValueError(
            f"{what} needs all weights and gradients on every device, but {strategy} shards them: set "
            f"{setting('strategy', 'ddp', TRAINER)} or one device, or {otherwise}."
        )


def stop_watching_ranks(trainer: L.Trainer) -> None:
    """Stop monitoring the ranks that this process started, because all are about to end.

    A thread of Lightning kills this process within seconds after one of them ends with an error status. The status of
    SIGTERM counts as one, although the checkpoint is saved and this process has yet to return its own status.

    Args:
        trainer: The Trainer.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.procs.clear()  # the thread reads this list
