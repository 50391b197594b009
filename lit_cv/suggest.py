"""The nearest valid name for a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["nearest"]


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` for the nearest valid names, or a plain full stop where none is near.

    Example:
        >>> nearest("fti", ["fit", "test"])
        ": did you mean 'fit'?"
        >>> nearest("zzzzz", ["fit", "test"])
        '.'
    """
    names = list(valid)
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = get_close_matches(name.lower(), by_lower, n=2, cutoff=0.6)
    if not close:
        return "."
    return ": did you mean " + " or ".join(repr(by_lower[match]) for match in close) + "?"
