"""Escaping text from files so that a terminal can safely show it. Pure Python."""

import re

__all__ = ["printable"]

# Control characters except line ends and tabs, marks that change the writing direction, and bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, lines: bool = True) -> str:
    r"""Escape the characters of a text that a terminal would interpret or could not show.

    Args:
        text: A message, or a name of a file or class.
        lines: Whether to keep line ends and tabs: a message may have several lines, a name has one.

    Example:
        >>> printable("cat\x1b[2J\udcff"), printable("a\nb", lines=False)
        ('cat\\x1b[2J\\xff', 'a\\nb')
    """
    text = _UNSAFE.sub(lambda match: _escaped(match[0]), text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
