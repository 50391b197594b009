"""Escaping table cells that a spreadsheet would run as a formula. Pure Python."""

import re

__all__ = ["escape_formula", "unescape_formula"]

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def escape_formula(text: str) -> str:
    """Prefix a text with an apostrophe if a spreadsheet would run it as a formula; for names, not for numbers.

    Example:
        >>> escape_formula("=cmd.jpg"), escape_formula("cat"), escape_formula("'-a")
        ("'=cmd.jpg", 'cat', "''-a")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(text: str) -> str:
    """Undo `escape_formula`.

    Example:
        >>> unescape_formula("'=cmd.jpg"), unescape_formula("'cat'")
        ('=cmd.jpg', "'cat'")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
