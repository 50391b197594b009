"""Meaning of mask values: class names, palettes, and ignored classes."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_cv.annotations.mask_code import MaskCode
from lit_cv.annotations.mask_values import MaskFact
from lit_cv.annotations.reading import class_name, composed, read_lines
from lit_cv.annotations.records import AnnotationError
from lit_cv.errors import OptionError, argument, setting
from lit_cv.ignore_index import IGNORE_INDEX
from lit_cv.printable import printable
from lit_cv.suggest import nearest

__all__ = ["MaskFacts", "MaskOptions", "class_code", "describe_masks", "find_palette", "mask_code", "read_palette"]

log = logging.getLogger("lit_cv")

MaskFacts = Callable[[Sequence[Path]], Sequence[MaskFact]]
Palette = Mapping[int, str]
"""Names of colors 0xRRGGBB."""

_CAMVID = "label_colors.txt"  # has colors before names
_PALETTES = ("labelmap.txt", "class_dict.csv", _CAMVID)  # of CVAT, Kaggle data sets, and CamVid
_LARGE_SHARE = 0.2  # share of ignored pixels above which to warn
_SHOWN = 20  # classes or values listed in a message
_COLOR = r"(?P<red>\d{1,3})[\s,;]+(?P<green>\d{1,3})[\s,;]+(?P<blue>\d{1,3})"
_NAME_FIRST = re.compile(rf"(?P<name>.*?)[\s:,;]+{_COLOR}(\s*:.*)?", re.ASCII)
_NAME_LAST = re.compile(rf"{_COLOR}[\s:,;]+(?P<name>.+)", re.ASCII)


@dataclass(frozen=True)
class MaskOptions:
    """How the masks of a folder are read.

    Args:
        palette: File that names the colors; `None` searches for one.
        ignore: Classes, by name or value, that are ignored like 255.
        where: Location of the masks, see `find_mask_files`; `None` searches for them.
    """

    palette: Path | None = None
    ignore: Sequence[int | str] = ()
    where: str | None = None


def find_palette(root: Path) -> Path | None:
    """Return the palette file of a folder, or `None`."""
    return next((root / name for name in _PALETTES if (root / name).is_file()), None)


def read_palette(path: Path) -> dict[int, str]:
    """Read a palette: a name and three numbers up to 255 in each line, in either order.

    These files are used by CVAT (`labelmap.txt`) and CamVid (`label_colors.txt`); tables `name,r,g,b` work, too. A
    line of column names and lines that begin with `#` are skipped. A name may have several colors.

    Raises:
        AnnotationError: If a line is invalid, or a color has two names.
    """
    palette: dict[int, str] = {}
    lines = dict(enumerate(read_lines(path), 1))
    order = [_NAME_FIRST, _NAME_LAST]
    last = any(_NAME_LAST.fullmatch(line) and not _NAME_FIRST.fullmatch(line) for line in lines.values())
    if last or path.name == _CAMVID:  # the names may be numbers
        order.reverse()
    for number, line in lines.items():
        entry = next((match for pattern in order if (match := pattern.fullmatch(line))), None)
        comment = line.startswith("# ") or (line.startswith("#") and not entry)  # a name may be `#1`
        if comment or (number == 1 and not re.search(r"\d", line)):
            continue
        name = class_name(entry["name"].strip(" \t\"'")) if entry else ""
        values = [int(entry[channel]) for channel in ("red", "green", "blue")] if entry else [256]
        if not name or max(values) > 255:
            raise AnnotationError(
                f"{path}, line {number}: {line[:60]!r} is not a name with three numbers from 0 to 255 (red, green, "
                "blue)."
            )
        color = values[0] << 16 | values[1] << 8 | values[2]
        if palette.setdefault(color, name) != name:
            raise AnnotationError(f"{path}, line {number}: color {values} is already used for {palette[color]!r}.")
    if not palette:
        raise AnnotationError(f"{path} contains no colors.")
    return palette


def mask_code(
    names: Sequence[str],
    facts: Sequence[MaskFact],
    palette: Palette | None = None,
    ignore: Sequence[int | str] = (),
) -> MaskCode:
    """Determine the meaning of mask values.

    The palette is used if it contains all colors of the masks, or if some mask has colors. Otherwise a value is its
    class number and 255 is ignored. Exception: if masks contain only 0 and 255 and there are two classes or no names,
    255 is the second class. Without names, classes are named by their numbers; if most numbers up to the largest
    never occur, only those that occur become classes.

    Args:
        names: Names of the values from 0; may be empty.
        facts: Results of `inspect_mask` for the masks.
        palette: Names of colors.
        ignore: Classes, by name or value, that are ignored like 255.

    Raises:
        ValueError: If a class to ignore does not exist, or no class remains.
    """
    entries = [fact[2 + k : 5 + k] for fact in facts if not isinstance(fact, str) for k in range(0, len(fact) - 2, 3)]
    values, colors = {value for value, _, _ in entries}, {color for _, color, _ in entries}
    if palette and entries and (-1 in values or colors <= palette.keys()):
        classes = list(dict.fromkeys(palette.values()))
        code = MaskCode(classes, {color: classes.index(name) for color, name in palette.items()}, colors=True)
    else:
        classes = list(names) or list(dict.fromkeys((palette or {}).values()))
        code = _number_code(classes, values, keeps_255=IGNORE_INDEX in ignore or str(IGNORE_INDEX) in ignore)
    return _without(code, ignore)


def _number_code(names: list[str], values: set[int], keeps_255: bool) -> MaskCode:
    ignored = {IGNORE_INDEX: IGNORE_INDEX}
    valid = {value for value in values if 0 <= value < (len(names) or IGNORE_INDEX)}
    if IGNORE_INDEX in values and valid <= {0} and len(names) in (0, 2) and not keeps_255:
        names = names or ["0", str(IGNORE_INDEX)]
        shown = printable(names[1], lines=False)
        ignoring = setting("ignore_class", IGNORE_INDEX)
        log.info("255 is read as class %s, as the masks contain only 0 and 255 (ignore it with %s).", shown, ignoring)
        return MaskCode(names, {0: 0, IGNORE_INDEX: 1})
    if not names and valid:
        sparse = 2 * len(valid) <= max(valid)
        numbers = sorted(valid) if sparse else range(max(valid) + 1)
        return MaskCode([str(value) for value in numbers], {value: k for k, value in enumerate(numbers)} | ignored)
    return MaskCode(names, {value: value for value in range(min(len(names), IGNORE_INDEX))} | ignored)


def class_code(names: Sequence[str], ignore: Sequence[int | str]) -> MaskCode:
    """Return the code of masks whose values are class numbers.

    Raises:
        ValueError: If a class to ignore does not exist, or no class remains.
    """
    return _without(_number_code(list(names), set(), keeps_255=True), ignore)


def _without(code: MaskCode, ignore: Sequence[int | str]) -> MaskCode:
    """Return a code that ignores some classes and renumbers the others from 0."""
    dropped: set[int] = set()
    classes = dict(code.classes)
    for entry in ignore:
        if isinstance(entry, str) and composed(entry) in code.names:
            dropped.add(code.names.index(composed(entry)))
        elif isinstance(entry, int) or entry.isdecimal():
            number = int(entry)
            if not 0 <= number <= IGNORE_INDEX:
                raise OptionError(None, "ignore_class", number, "mask values are 0 to 255")
            dropped.add(number if code.colors else classes.setdefault(number, IGNORE_INDEX))
        else:
            shown = _listed(code.names)
            hint = nearest(entry, code.names)
            raise ValueError(f"unknown class {entry!r} ({argument('ignore_class')}){hint} Known: {shown}.")
    kept = [number for number in range(len(code.names)) if number not in dropped]
    if ignore and not kept:
        raise ValueError(f"all classes are ignored: list fewer ({argument('ignore_class')}).")
    renumbered = {old: new for new, old in enumerate(kept)}
    classes = {value: renumbered.get(number, IGNORE_INDEX) for value, number in classes.items()}
    return replace(code, names=[code.names[number] for number in kept], classes=classes)


def describe_masks(code: MaskCode, facts: Iterable[MaskFact], named: bool) -> list[str]:
    """Return warnings about the training masks, one sentence each.

    Args:
        code: Meaning of their values.
        facts: Results of `inspect_mask` for them.
        named: Whether the values have names.
    """
    pixels: Counter[int] = Counter()
    values: Counter[int] = Counter()
    masks = 0
    for fact in facts:
        if isinstance(fact, str):
            continue
        masks += 1
        for k in range(2, len(fact), 3):
            value = fact[k + 1] if code.colors else fact[k]
            values[value] += fact[k + 2]
            pixels[code.classes.get(value, IGNORE_INDEX)] += fact[k + 2]
    if not masks:
        return []
    notes = []
    if not named:
        shown = _listed(str(value) for value in sorted(values) if code.classes.get(value, IGNORE_INDEX) != IGNORE_INDEX)
        ignored = (
            "; 255 is ignored"
            if values[IGNORE_INDEX] and not code.colors and code.classes[IGNORE_INDEX] == IGNORE_INDEX
            else ""
        )
        notes.append(
            f"the mask values have no names ({shown}{ignored}): name them in classes.txt, one per line from 0."
        )
    if never := [name for number, name in enumerate(code.names) if not pixels[number]]:
        counts = f"{len(never)} of {len(code.names)} classes"
        notes.append(f"{counts} occur in none of the {masks} training masks: {_listed(never)}.")
    if (share := pixels[IGNORE_INDEX] / sum(pixels.values())) > _LARGE_SHARE:
        notes.append(
            f"{share:.0%} of the pixels of the training masks are ignored (255, or {argument('ignore_class')})."
        )
    return notes


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - _SHOWN} more" if len(all_names) > _SHOWN else ""
    return (", ".join(printable(name, lines=False) for name in all_names[:_SHOWN]) or "none") + more
