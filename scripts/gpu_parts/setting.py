"""What all parts share: the device, the size, and reasons to skip an item."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["ROOT", "Setting", "SkippedItemError", "require"]

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


@dataclass(frozen=True)
class Setting:
    """How the parts run.

    Attributes:
        device: `cuda` or `cpu`.
        tiny: Whether sizes are those of a quick test.
        folder: Folder for runs and generated images.
        recipes: Recipes to check; empty for all.
        threads: CPU threads of each worker.
    """

    device: str
    tiny: bool
    folder: str
    recipes: tuple[str, ...] = ()
    threads: int = 1

    def new_folder(self, name: str) -> Path:
        """Make a new folder."""
        return Path(mkdtemp(prefix=f"{name}_", dir=self.folder))


class SkippedItemError(Exception):
    """The item cannot run here, for the reason in the message."""


def require(condition: bool, problem: str) -> None:
    """Fail the item with a message unless a condition holds."""
    if not condition:
        raise RuntimeError(problem)
