"""Sections of docstrings for the reference of the documentation site: an extension of Griffe."""

import re
from typing import Any

import griffe


class DocstringSections(griffe.Extension):
    """Turns sections `Example` into `Examples`, which Griffe renders as code, and TeX roles into formulas."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object after it was read."""
        if obj.docstring is not None:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r":math:`([^`]*)`", lambda found: f"${found[1]}$", text)
