"""Text of files and names as a terminal may show it. Pure Python."""

import re

__all__ = ["printable"]

# Control characters but for line ends and tabs, marks that turn the direction of writing, and bytes that are no UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, lines: bool = True) -> str:
    r"""Return a text with what a terminal would act on, or could not show, written out.

    Args:
        text: A message, or a name of a file or class.
        lines: Whether line ends and tabs stay: a message may have several lines, a name has one.

    Example:
        >>> printable("cat\x1b[2J\udcff"), printable("a\nb", lines=False)
        ('cat\\x1b[2J\\xff', 'a\\nb')
    """
    text = _UNSAFE.sub(lambda match: _escaped(match[0]), text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
