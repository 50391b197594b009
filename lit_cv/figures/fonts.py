"""Fonts for letters that matplotlib's own font does not have: names in any script."""

import contextlib
import logging
from collections.abc import Iterable
from functools import cache

__all__ = ["default_font", "fonts_with"]

log = logging.getLogger("lit_cv")

_told: set[str] = set()


def fonts_with(letters: Iterable[str]) -> list[tuple[str, str]]:
    """Return installed fonts that have these letters between them, as few as were found; say once what none has.

    Args:
        letters: The letters.

    Returns:
        Name and path of each.

    Example:
        >>> fonts_with("")
        []
    """
    missing = {letter for letter in letters if not letter.isspace()}
    chosen = []
    for name, path in _plain_fonts() if missing else ():
        if found := {letter for letter in missing if ord(letter) in _letters(path)}:
            chosen.append((name, path))
            missing -= found
        if not missing:
            break
    if missing - _told:
        _told.update(missing)
        log.warning(
            "No font on this machine has the letters %s: they are boxes in pictures until one is installed, such as "
            "Noto Sans (fonts-noto, fonts-noto-cjk).",
            "".join(sorted(missing)[:20]),
        )
    return chosen


@cache
def default_font() -> str:
    """Return the path of the font that comes with matplotlib."""
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@cache
def _plain_fonts() -> list[tuple[str, str]]:
    """Return name and path of upright fonts of usual weight, those first that names look best in."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {font.fname for font in fontManager.ttflist}
    for path in findSystemFonts():  # matplotlib remembers what there was when it looked first
        if path not in known:
            with contextlib.suppress(Exception):  # of all kinds, for files that are no fonts
                fontManager.addfont(path)
    fonts = {
        (font.name, font.fname)
        for font in fontManager.ttflist
        if font.style == font.variant == "normal" and font.weight in (400, "normal", "regular", "book")
        if not font.name.startswith("Last Resort")  # which has a box for every letter
    }

    def rank(font: tuple[str, str]) -> tuple[bool, bool, bool, str, str]:
        name, path = font
        return not name.startswith("Noto Sans"), "Sans" not in name, "Mono" in name, name, path

    return sorted(fonts, key=rank)


@cache
def _letters(path: str) -> frozenset[int]:
    """Return the letters that a font can draw; none of one made of pictures, which matplotlib cannot scale."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
