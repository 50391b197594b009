"""What has been found out about image files, kept beside them: for one, which cannot be read."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.decoding import ValueRange
from datamodules.images import UnreadableImageError, read_image
from datamodules.stored_file import (
    DECODER_VERSION,
    cache_folder,
    digest,
    draw_few,
    fingerprint,
    open_plain,
    proven,
    remember,
)
from datamodules.threads import in_threads
from lit_cv.atomic_files import write_text
from lit_cv.printable import printable

__all__ = ["inspected", "unreadable_files"]

log = logging.getLogger("lit_cv")

_CHECK_SIZE = 32  # pixels that a file is read at to see whether it can be
_MOST_BYTES = 1 << 29  # of such notes: five million files


def unreadable_files(root: Path, paths: Sequence[str], value_range: ValueRange | None = None) -> dict[str, str]:
    """Return the files that cannot be decoded, each with the reason; every file is decoded once while unchanged.

    Args:
        root: Folder that the paths are relative to.
        paths: The images.
        value_range: As in `read_image`.
    """

    def check(path: str) -> str:
        try:
            read_image(root / path, _CHECK_SIZE, 3, value_range)
        except OSError as error:
            return (isinstance(error, UnreadableImageError) and error.reason) or str(error)
        return ""

    reasons = inspected(
        root,
        paths,
        "checked" if value_range is None else f"checked-{digest(value_range)}",
        check,
        "Checking images",
        lambda reason: isinstance(reason, str),
        lambda path, reason: bool(check(path)) == bool(reason),
    )
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def inspected(
    root: Path,
    paths: Sequence[str],
    name: str,
    look: Callable[[str], Any],
    title: str,
    is_valid: Callable[[Any], bool],
    agrees: Callable[[str, Any], bool] | None = None,
) -> list[Any]:
    """Return what `look` finds in each file, which is remembered in `name`.json as long as the file is unchanged.

    Notes that this process has not written itself are compared with a few of the files, and forgotten if they differ.

    Args:
        root: Folder that the paths are relative to.
        paths: The files.
        name: Name of what is looked for.
        look: Returns what is found in a file, as JSON; called in threads.
        title: What the progress bar says.
        is_valid: Returns whether something could be what `look` found, by its form.
        agrees: Returns whether what is remembered of a file is right; by default whether `look` finds the same.
    """
    file = None
    with contextlib.suppress(PermissionError):
        file = cache_folder(root) / f"{name}.json"
    prints = {path: fingerprint(root, path) for path in paths}
    notes = {} if file is None else _read_notes(file)
    known = {
        path: entry[-1]
        for path, seen in prints.items()
        if (entry := notes.get(path, [None]))[:-1] == [DECODER_VERSION, *seen] and is_valid(entry[-1])
    }
    part = hash(tuple(paths))
    if file and known and not proven(file, part):
        compare = agrees or (lambda path, found: bool(json.loads(json.dumps(look(path))) == found))
        if wrong := [path for path in _sample(file, known) if not compare(path, known[path])]:
            log.warning("%s is made again: it is wrong about %s.", _shown(file), printable(wrong[0], lines=False))
            notes, known = {}, {}
        else:
            remember(file, part)
    new = [path for path in prints if path not in known]

    def note(position: int) -> None:
        path = new[position]
        notes[path] = [DECODER_VERSION, *prints[path], look(path)]

    if new:
        in_threads(note, len(new), title)
        if file:
            try:
                write_text(file, json.dumps(notes), "what was found out about the files,")
                remember(file, part)
            except OSError as error:  # they are found out again next time
                log.warning("What was found out about the files is not kept: %s", printable(str(error)))
    return [notes[path][-1] for path in paths]


def _read_notes(file: Path) -> dict[str, list[Any]]:
    """Return what was found out before about each file; nothing, with a warning, if that is damaged."""
    try:
        with open_plain(file) as opened:
            if (size := os.fstat(opened.fileno()).st_size) > _MOST_BYTES:
                raise ValueError(f"it has {size:,} bytes")
            notes = json.loads(opened.read(_MOST_BYTES))
        if not isinstance(notes, dict) or not all(isinstance(entry, list) and entry for entry in notes.values()):
            raise ValueError("it holds something else")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        reason = printable(str(error), lines=False)[:200]
        log.warning("%s is made again, for it cannot be read: %s", _shown(file), reason)
        return {}
    return notes


def _sample(file: Path, known: Mapping[str, Any]) -> list[str]:
    """Return a few of the files that notes know, and a few of those where something is wrong."""
    wrong = [path for path, found in known.items() if found and isinstance(found, str | dict)]
    return [*draw_few(file, list(known)), *draw_few(file, wrong)]


def _shown(path: Path) -> str:
    return printable(str(path), lines=False)
