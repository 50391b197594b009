"""Output in the cells of a notebook: plain text, which is replaced in place. Pure Python."""

import sys
from importlib import import_module
from typing import Any

__all__ = ["InlineText", "in_notebook"]


def in_notebook() -> bool:
    """Return whether this process runs the cells of a notebook (Jupyter, VS Code, Colab)."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class InlineText:
    """A text below a cell that can be replaced, without terminal control codes."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show a text in place of the previous one."""
        self._display({"text/plain": text})

    def clear(self) -> None:
        """Remove the text, if there is one; the next one appears in the cell that is then running."""
        if self._handle is not None:
            self._display({"text/html": "", "text/plain": ""})  # empty HTML takes no line
            self._handle = None

    def _display(self, content: dict[str, str]) -> None:
        if self._handle is None:
            display: Any = import_module("IPython.display").display
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
