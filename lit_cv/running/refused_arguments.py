"""The end of a command whose arguments the parser refuses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

__all__ = ["RefusedArguments"]


class RefusedArguments(SystemExit):
    """Ends the program because the parser refuses the arguments.

    Attributes:
        message: What jsonargparse says.
        parser: The parser, which knows the valid options.
        typed: The arguments as they were given.
    """

    def __init__(self, message: str, parser: "LightningArgumentParser", typed: Sequence[str]) -> None:
        super().__init__(f"lit-cv: error: {' '.join(message.split())}")
        self.message, self.parser, self.typed = message, parser, list(typed)
