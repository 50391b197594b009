"""The end of a command whose arguments the parser refuses."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["RefusedArguments"]


class RefusedArguments(SystemExit):
    """Ends the program because the parser refuses the arguments.

    Attributes:
        typed: The arguments as they were given.
        configuration: What recipes, configuration files and the checkpoint give.
    """

    def __init__(self, message: str, typed: Sequence[str], configuration: Mapping[str, Any]) -> None:
        super().__init__(f"lit-cv: error: {' '.join(message.split())}")
        self.typed, self.configuration = list(typed), configuration
