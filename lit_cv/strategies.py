"""What Lightning's strategies for several devices allow."""

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

__all__ = ["check_whole"]


def check_whole(trainer: L.Trainer, what: str, otherwise: str) -> None:
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
            f"--trainer.strategy ddp or one device, or {otherwise}."
        )
