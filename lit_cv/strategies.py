"""What Lightning's strategies for several devices allow."""

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lit_cv.errors import TRAINER, setting

__all__ = ["require_replicated_weights", "stop_watching_ranks"]


def require_replicated_weights(trainer: L.Trainer, what: str, otherwise: str) -> None:
    """Check that every process holds the network and its gradients as a whole, as FSDP does not let it.

    Args:
        trainer: The Trainer.
        what: What needs them, with its option, as the error begins.
        otherwise: What else to change.

    Raises:
        ValueError: If the Trainer's strategy keeps them in pieces.
    """
    strategy = type(trainer.strategy).__name__
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ValueError(
            f"{what} needs all weights and gradients whole on every device, which {strategy} does not give: set "
            f"{setting('strategy', 'ddp', TRAINER)} or one device, or {otherwise}."
        )


def stop_watching_ranks(trainer: L.Trainer) -> None:
    """Let the ranks that this process has started end on their own, now that all are about to end.

    A thread of Lightning's kills this process within seconds after one of them has ended with an error status, which
    that of SIGTERM is, though its checkpoint is saved and its own status is yet to be given.

    Args:
        trainer: The Trainer.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.procs.clear()  # the very list that the thread looks at
