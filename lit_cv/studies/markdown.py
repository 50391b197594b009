"""Escape text for Markdown. Pure Python."""

import re

from lit_cv.printable import printable

__all__ = ["escape_markdown"]

# Underscores within words have no meaning in Markdown.
_SPECIAL = re.compile(r"[\\`*\[\]<>|&#$~!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_OPENS_BLOCK = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[-+=](?:[-+=\s]|$)))")


def escape_markdown(text: str) -> str:
    r"""Escape a text so that Markdown shows it unchanged in one line, also in lists and tables.

    Example:
        >>> escape_markdown("a|b <b> *c* val_acc"), escape_markdown("- [x](y)")
        ('a\\|b \\<b\\> \\*c\\* val_acc', '\\- \\[x\\](y)')
    """
    text = _SPECIAL.sub(r"\\\g<0>", printable(text, lines=False))
    return _OPENS_BLOCK.sub(r"\1\\", text)
