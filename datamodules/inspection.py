"""What has been found out about image files, kept beside them: for one, which cannot be read."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datamodules.images import UnreadableImageError, read_image
from datamodules.stored_file import DECODER_VERSION, cache_folder, fingerprint
from datamodules.threads import in_threads

__all__ = ["inspected", "unreadable_files"]

log = logging.getLogger("lit_cv")

_CHECK_SIZE = 32  # pixels that a file is read at to see whether it can be


def unreadable_files(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return the files that cannot be decoded, each with the reason; every file is decoded once while unchanged.

    Args:
        root: Folder that the paths are relative to.
        paths: The images.
    """

    def check(path: str) -> str:
        try:
            read_image(root / path, _CHECK_SIZE)
        except UnreadableImageError as error:
            return str(error).rpartition(f"{path}: ")[2]
        except OSError as error:
            return str(error)
        return ""

    reasons = inspected(root, paths, "checked", check, "Checking images")
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def inspected(root: Path, paths: Sequence[str], name: str, look: Callable[[str], Any], title: str) -> list[Any]:
    """Return what `look` finds in each file, which is remembered in `name`.json as long as the file is unchanged.

    Args:
        root: Folder that the paths are relative to.
        paths: The files.
        name: Name of what is looked for.
        look: Returns what is found in a file, as JSON; called in threads.
        title: What the progress bar says.
    """
    file = None
    with contextlib.suppress(PermissionError):
        file = cache_folder(root) / f"{name}.json"
    known: dict[str, list[Any]] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8")) if file else {}
    prints = {path: fingerprint(root, path) for path in paths}
    new = [path for path in prints if known.get(path, [None])[:-1] != [DECODER_VERSION, *prints[path]]]

    def note(position: int) -> None:
        path = new[position]
        known[path] = [DECODER_VERSION, *prints[path], look(path)]

    if new:
        in_threads(note, len(new), title)
        if file:
            unfinished = file.with_name(f".{file.name}.{os.getpid()}")
            try:
                unfinished.write_text(json.dumps(known), encoding="utf-8")
                os.replace(unfinished, file)
            except OSError as error:  # they are found out again next time
                log.warning("What was found out about the files is not kept: %s", error)
            finally:
                with contextlib.suppress(OSError):
                    unfinished.unlink(missing_ok=True)
    return [known[path][-1] for path in paths]
