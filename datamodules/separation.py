"""Which images of one split are images of another, too."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.inspection import inspected
from datamodules.threads import in_threads

__all__ = ["FileStates", "Pair", "equal_contents", "file_states", "first_positions", "shared_files"]

_ENDS = 1 << 14  # bytes at each end of a file that are hashed
_MOST = 20_000  # files whose contents are looked at
_LARGEST = 1 << 28  # bytes of a file that is compared
_FEW = 1000  # files that are looked at faster than notes of them are kept

Numbers = NDArray[np.uint64]
Files = tuple[Path, Sequence[str]]


class FileStates(NamedTuple):
    """Which file each path leads to, and its size in bytes; (N,) each."""

    identity: Numbers
    size: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> "FileStates":
        """Return those of some of the paths."""
        return FileStates(self.identity[rows], self.size[rows])


class Pair(NamedTuple):
    """Positions of one image in two splits."""

    first: int
    second: int


def file_states(root: Path, names: Sequence[str]) -> FileStates:
    """Look at files, not into them: links, `./` and other spellings of a path lead to one file.

    Args:
        root: Folder that the names are relative to.
        names: The files; one that is missing is no other file.
    """
    identity, size = np.empty(len(names), np.uint64), np.full(len(names), -1, np.int64)
    folder = os.fspath(root)
    for position, name in enumerate(names):
        path = os.path.join(folder, name)
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            found = None
        if found is not None:
            size[position] = found.st_size
        if found is not None and found.st_ino:
            identity[position] = (found.st_ino + found.st_dev * 0x9E3779B97F4A7C15) % (1 << 64)
        else:  # a file system without numbers, or no file
            text = os.fsencode(os.path.normcase(os.path.abspath(path)).replace("\0", "?"))
            identity[position] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return FileStates(identity, size)


def first_positions(states: FileStates) -> NDArray[np.int64]:
    """Return for each path the first position of a path to the same file, (N,)."""
    _, first, inverse = np.unique(states.identity, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def shared_files(first: FileStates, second: FileStates) -> list[Pair]:
    """Return the images of the second split that are files of the first, too."""
    _, ours, theirs = np.intersect1d(first.identity, second.identity, return_indices=True)
    pairs = [Pair(a, b) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    return sorted(pairs, key=lambda pair: pair.second)


def equal_contents(files: Sequence[Files], states: Sequence[FileStates], most: int = _MOST) -> tuple[list[Pair], int]:
    """Return the images of the second split whose bytes are those of an image of the first.

    Only files of the same size are looked into, and of these the ends are compared first.

    Args:
        files: Folder and names of the images of both splits.
        states: What `file_states` says of them.
        most: Files that are looked into; images of the second split are left out evenly until there are fewer.

    Returns:
        A pair for each such image of the second split, and how many of its images were compared.
    """
    first, second = states
    candidates = np.flatnonzero(np.isin(second.size, first.size[(first.size > 0) & (first.size <= _LARGEST)]))
    partners = np.flatnonzero(np.isin(first.size, second.size[candidates]))
    looked_at = len(second.size)
    while len(candidates) > 1 and len(candidates) + len(partners) > most:
        candidates = candidates[::2]
        partners = np.flatnonzero(np.isin(first.size, second.size[candidates]))
        looked_at = len(candidates)
    if not len(candidates):
        return [], looked_at
    ends = [_ends(*part, rows.tolist()) for part, rows in zip(files, (partners, candidates), strict=True)]
    by_end: dict[tuple[int, str], int] = {}
    for row, end in zip(partners.tolist(), ends[0], strict=True):
        by_end.setdefault((int(first.size[row]), end), row)
    pairs = []
    for row, end in zip(candidates.tolist(), ends[1], strict=True):
        partner = by_end.get((int(second.size[row]), end))
        if end and partner is not None and _same(_path(files[0], partner), _path(files[1], row)):
            pairs.append(Pair(partner, row))
    return pairs, looked_at


def _ends(root: Path, names: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return a hash of both ends of files, an empty text for one that cannot be read."""
    chosen = [names[row] for row in rows]
    if len(chosen) > _FEW:
        return inspected(
            root, chosen, "contents", lambda name: _end(root / name), "Comparing images", lambda v: isinstance(v, str)
        )
    found = [""] * len(chosen)

    def look(position: int) -> None:
        found[position] = _end(root / chosen[position])

    in_threads(look, len(chosen), "Comparing images")
    return found


def _end(path: Path) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(_ENDS)
            file.seek(max(0, size - _ENDS))
            content += file.read(_ENDS)
    except (OSError, ValueError):
        return ""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _same(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same bytes."""
    import filecmp

    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _path(files: Files, row: int) -> Path:
    return files[0] / files[1][row]
