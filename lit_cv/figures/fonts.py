"""Fonts for characters that matplotlib's default font lacks, for names in any script."""

import contextlib
import logging
from collections.abc import Iterable
from functools import cache

__all__ = ["default_font", "fonts_with"]

log = logging.getLogger("lit_cv")

_reported: set[str] = set()


def fonts_with(letters: Iterable[str]) -> list[tuple[str, str]]:
    """Return a few installed fonts that together have these characters; warn once about missing characters.

    Args:
        letters: The characters.

    Returns:
        Name and path of each font.

    Example:
        >>> fonts_with("")
        []
    """
    missing = {letter for letter in letters if not letter.isspace()}
    chosen = []
    for name, path in _plain_fonts() if missing else ():
        if covered := {letter for letter in missing if ord(letter) in _letters(path)}:
            chosen.append((name, path))
            missing -= covered
        if not missing:
            break
    if missing - _reported:
        _reported.update(missing)
        log.warning(
            "No installed font has the characters %s: figures show them as boxes. Install such a font, for example "
            "Noto Sans (fonts-noto, fonts-noto-cjk).",
            "".join(sorted(missing)[:20]),
        )
    return chosen


@cache
def default_font() -> str:
    """Return the path of matplotlib's default font."""
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@cache
def _plain_fonts() -> list[tuple[str, str]]:
    """Return name and path of upright fonts of regular weight, preferred fonts first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    cached = {font.fname for font in fontManager.ttflist}
    for path in findSystemFonts():  # matplotlib's cache lacks fonts installed after its creation
        if path not in cached:
            with contextlib.suppress(Exception):  # files that are not fonts raise errors of any type
                fontManager.addfont(path)
    fonts = {
        (font.name, font.fname)
        for font in fontManager.ttflist
        if font.style == font.variant == "normal" and font.weight in (400, "normal", "regular", "book")
        if not font.name.startswith("Last Resort")  # has a box for every character
    }

    def rank(font: tuple[str, str]) -> tuple[bool, bool, bool, str, str]:
        name, path = font
        return not name.startswith("Noto Sans"), "Sans" not in name, "Mono" in name, name, path

    return sorted(fonts, key=rank)


@cache
def _letters(path: str) -> frozenset[int]:
    """Return the code points that a font can draw; empty for bitmap fonts, which matplotlib cannot scale."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
