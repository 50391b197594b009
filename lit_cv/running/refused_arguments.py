"""The exit of a command with invalid arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["RefusedArguments"]


class RefusedArguments(SystemExit):
    """Exits the program because the parser refuses the arguments.

    Attributes:
        typed: The arguments, as typed.
        configuration: The merged configuration of recipes, configuration files and the checkpoint.
    """

    def __init__(self, message: str, typed: Sequence[str], configuration: Mapping[str, Any]) -> None:
        super().__init__(f"lit-cv: error: {' '.join(message.split())}")
        self.typed, self.configuration = list(typed), configuration
