"""Cells of a table that a spreadsheet would take for a formula. Pure Python."""

import re

__all__ = ["escape_formula", "unescape_formula"]

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def escape_formula(text: str) -> str:
    """Return a text with an apostrophe before it, if a spreadsheet would compute it: names, never numbers.

    Example:
        >>> escape_formula("=cmd.jpg"), escape_formula("cat"), escape_formula("'-a")
        ("'=cmd.jpg", 'cat', "''-a")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(text: str) -> str:
    """Return the text that `escape_formula` was given.

    Example:
        >>> unescape_formula("'=cmd.jpg"), unescape_formula("'cat'")
        ('=cmd.jpg', "'cat'")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
