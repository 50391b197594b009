"""Detection of images that are in more than one split."""

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
_MAX_FILES = 20_000  # files to compare by content
_LARGEST = 1 << 28  # maximum bytes of a file to compare
_FEW = 1000  # number of files below which hashing is faster than caching

Numbers = NDArray[np.uint64]
Files = tuple[Path, Sequence[str]]


class FileStates(NamedTuple):
    """Identity and size in bytes of the file of each path; (N,) each."""

    identity: Numbers
    size: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> "FileStates":
        """Return the states of some of the paths."""
        return FileStates(self.identity[rows], self.size[rows])


class Pair(NamedTuple):
    """Positions of one image in two splits."""

    first: int
    second: int


def file_states(root: Path, names: Sequence[str]) -> FileStates:
    """Return identity and size of files, without reading them; links and other spellings of a path are resolved.

    Args:
        root: Folder that the names are relative to.
        names: The files; a missing one differs from all others.
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
        else:  # a file system without inode numbers, or no file
            text = os.fsencode(os.path.normcase(os.path.abspath(path)).replace("\0", "?"))
            identity[position] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return FileStates(identity, size)


def first_positions(states: FileStates) -> NDArray[np.int64]:
    """Return the first position of a path to the same file for each path, (N,)."""
    _, first, inverse = np.unique(states.identity, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def shared_files(first: FileStates, second: FileStates) -> list[Pair]:
    """Return pairs of positions of files that are in both splits."""
    _, in_first, in_second = np.intersect1d(first.identity, second.identity, return_indices=True)
    pairs = [Pair(a, b) for a, b in zip(in_first.tolist(), in_second.tolist(), strict=True)]
    return sorted(pairs, key=lambda pair: pair.second)


def equal_contents(
    files: Sequence[Files], states: Sequence[FileStates], most: int = _MAX_FILES
) -> tuple[list[Pair], int]:
    """Return the images of the second split that are byte-for-byte copies of images of the first.

    Only files of the same size are read, and their ends are compared first.

    Args:
        files: Folder and names of the images of both splits.
        states: Result of `file_states` for both splits.
        most: Maximum number of files to read; the second split is subsampled evenly to stay below it.

    Returns:
        A pair for each such image of the second split, and the number of its images that were compared.
    """
    first, second = states
    candidates = np.flatnonzero(np.isin(second.size, first.size[(first.size > 0) & (first.size <= _LARGEST)]))
    partners = np.flatnonzero(np.isin(first.size, second.size[candidates]))
    compared = len(second.size)
    while len(candidates) > 1 and len(candidates) + len(partners) > most:
        candidates = candidates[::2]
        partners = np.flatnonzero(np.isin(first.size, second.size[candidates]))
        compared = len(candidates)
    if not len(candidates):
        return [], compared
    ends = [_ends(*part, rows.tolist()) for part, rows in zip(files, (partners, candidates), strict=True)]
    by_end: dict[tuple[int, str], int] = {}
    for row, end in zip(partners.tolist(), ends[0], strict=True):
        by_end.setdefault((int(first.size[row]), end), row)
    pairs = []
    for row, end in zip(candidates.tolist(), ends[1], strict=True):
        partner = by_end.get((int(second.size[row]), end))
        if end and partner is not None and _same(_path(files[0], partner), _path(files[1], row)):
            pairs.append(Pair(partner, row))
    return pairs, compared


def _ends(root: Path, names: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return a hash of both ends of each file, an empty string for unreadable ones."""
    chosen = [names[row] for row in rows]
    if len(chosen) > _FEW:
        return inspected(
            root, chosen, "contents", lambda name: _end(root / name), "Comparing images", lambda v: isinstance(v, str)
        )
    hashes = [""] * len(chosen)

    def look(position: int) -> None:
        hashes[position] = _end(root / chosen[position])

    in_threads(look, len(chosen), "Comparing images")
    return hashes


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
    """Return whether two files have the same content."""
    import filecmp

    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _path(files: Files, row: int) -> Path:
    return files[0] / files[1][row]
