"""Cached facts about image files, kept beside them, such as which are unreadable."""

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
    mark_verified,
    open_regular,
    verified,
)
from datamodules.threads import in_threads
from lit_cv.atomic_files import write_text
from lit_cv.printable import printable

__all__ = ["inspected", "unreadable_files", "unreadable_rows"]

log = logging.getLogger("lit_cv")

_CHECK_SIZE = 32  # side in pixels for test reads
_MAX_BYTES = 1 << 29  # of a cache file, enough for five million images


def unreadable_files(root: Path, paths: Sequence[str], value_range: ValueRange | None = None) -> dict[str, str]:
    """Return the files that cannot be decoded, with the reasons; each file is decoded once while unchanged.

    Args:
        root: Folder that the paths are relative to.
        paths: The images.
        value_range: See `read_image`.
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


def unreadable_rows(
    root: Path,
    files: Sequence[str],
    name: str,
    rows_in: Callable[[str], list[int]],
    flaw: Callable[[int], str],
    names: Sequence[str],
) -> dict[str, str]:
    """Return the images within other files that cannot be decoded, by name, with the reasons.

    Args:
        root: Folder that the files are relative to.
        files: Files that contain the images.
        name: Name of the cached facts.
        rows_in: Returns the rows of the images in a file.
        flaw: Returns why the image of a row cannot be decoded, or an empty string.
        names: Name of the image of each row.
    """

    def look(file: str) -> dict[str, str]:
        return {names[row]: reason for row in rows_in(file) if (reason := flaw(row))}

    def agrees(file: str, reasons: dict[str, str]) -> bool:
        rows = rows_in(file)
        broken = [row for row in rows if names[row] in reasons]
        chosen = [*draw_few(root / file, rows), *draw_few(root / file, broken)]
        return all(bool(flaw(row)) == (names[row] in reasons) for row in chosen)

    def are_reasons(value: object) -> bool:
        return isinstance(value, dict) and all(isinstance(reason, str) for reason in value.values())

    parts = inspected(root, files, name, look, "Checking images", are_reasons, agrees)
    return {image: reason for part in parts for image, reason in part.items()}


def inspected(
    root: Path,
    paths: Sequence[str],
    name: str,
    look: Callable[[str], Any],
    title: str,
    is_valid: Callable[[Any], bool],
    agrees: Callable[[str, Any], bool] | None = None,
) -> list[Any]:
    """Return the results of `look` for each file, cached in `name`.json while the file is unchanged.

    Cached results that this process did not write are verified on a few files, and discarded if one differs.

    Args:
        root: Folder that the paths are relative to.
        paths: The files.
        name: Name of the cached facts.
        look: Returns the facts about a file as a JSON value; called in threads.
        title: Title of the progress bar.
        is_valid: Returns whether a value has the form of a result of `look`.
        agrees: Returns whether a cached result is right; by default whether `look` returns the same.
    """
    file = None
    with contextlib.suppress(PermissionError):
        file = cache_folder(root) / f"{name}.json"
    fingerprints = {path: fingerprint(root, path) for path in paths}
    entries = {} if file is None else _read_cache(file)
    results = {
        path: entry[-1]
        for path, state in fingerprints.items()
        if (entry := entries.get(path, [None]))[:-1] == [DECODER_VERSION, *state] and is_valid(entry[-1])
    }
    part = hash(tuple(paths))
    if file and results and not verified(file, part):
        compare = agrees or (lambda path, result: bool(json.loads(json.dumps(look(path))) == result))
        if wrong := [path for path in _sample(file, results) if not compare(path, results[path])]:
            log.warning("%s is rebuilt: it is wrong about %s.", _shown(file), printable(wrong[0], lines=False))
            entries, results = {}, {}
        else:
            mark_verified(file, part)
    new = [path for path in fingerprints if path not in results]

    def inspect(position: int) -> None:
        path = new[position]
        entries[path] = [DECODER_VERSION, *fingerprints[path], look(path)]

    if new:
        in_threads(inspect, len(new), title)
        if file:
            try:
                write_text(file, json.dumps(entries), "the cached facts about files")
                mark_verified(file, part)
            except OSError as error:  # they are collected again next time
                log.warning("Facts about the files cannot be cached: %s", printable(str(error)))
    return [entries[path][-1] for path in paths]


def _read_cache(file: Path) -> dict[str, list[Any]]:
    """Return the cache entry of each file; empty, with a warning, if the cache is damaged."""
    try:
        with open_regular(file) as opened:
            if (size := os.fstat(opened.fileno()).st_size) > _MAX_BYTES:
                raise ValueError(f"it has {size:,} bytes")
            entries = json.loads(opened.read(_MAX_BYTES))
        if not isinstance(entries, dict) or not all(isinstance(entry, list) and entry for entry in entries.values()):
            raise ValueError("its content is invalid")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        reason = printable(str(error), lines=False)[:200]
        log.warning("%s is rebuilt, as it cannot be read: %s", _shown(file), reason)
        return {}
    return entries


def _sample(file: Path, results: Mapping[str, Any]) -> list[str]:
    """Return a few of the cached files, and a few of those with problems."""
    flawed = [path for path, result in results.items() if result and isinstance(result, str | dict)]
    return [*draw_few(file, list(results)), *draw_few(file, flawed)]


def _shown(path: Path) -> str:
    return printable(str(path), lines=False)
