"""Where the images in tar files lie, and what their labels say: found out once, and kept beside the files."""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.shard_samples import SPARSE, Sample, is_header_of, iterate_samples, read_samples
from datamodules.stored_file import draw_few, fingerprint, open_plain, stored_file
from datamodules.texts import Texts
from datamodules.threads import in_threads

__all__ = ["COMPRESSED", "MOST_IMAGE", "ShardIndex", "index_shards"]

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_MOST_HEADER = 1 << 20  # bytes of the file of numpy's beside its columns
_MOST_MEMBERS = 16  # entries of a tar file that are looked at for each
MOST_IMAGE = 1 << 31
"""Bytes of an image that is read."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of tar files, in their order.

    Attributes:
        image_field: What the images were looked for by, see `index_shards`.
        states: Size and time of change of each tar file when it was read, (shards, 2).
        shard: Which tar file each sample lies in, (N,).
        offset: Byte at which its image starts, -1 where it has none, (N,).
        size: Bytes of its image, `SPARSE` for one stored with holes, (N,).
        label: Which of `texts` its label is, -1 where it has none, (N,).
        names: `SHARD/KEY.EXTENSION` of each sample. They are names, never paths: what would lead out of a folder is
            left out.
        texts: The labels as they stand, each once.
    """

    image_field: str | None
    states: Numbers
    shard: Numbers
    offset: Numbers
    size: Numbers
    label: Numbers
    names: Texts
    texts: Texts


_NUMBERS = ("states", "shard", "offset", "size", "label")
_TEXTS = ("names", "texts")


def index_shards(root: Path, shards: Sequence[str], image_field: str | None, label_field: str | None) -> ShardIndex:
    """Return the index of tar files, from the cache where they are those that it was made from.

    Args:
        root: Folder that the paths are relative to.
        shards: The tar files.
        image_field: Extension of the images; `None` takes the only one that is an image's.
        label_field: Extension of the labels, or field of `KEY.json`; `None` reads none.

    Raises:
        ValueError: If a file is compressed, truncated, broken or no tar file, or a sample is ambiguous.
    """

    def write(unfinished: Path) -> None:
        index = _read(root, shards, image_field, label_field)
        arrays = {name: getattr(index, name) for name in _NUMBERS}
        for name in _TEXTS:
            texts = getattr(index, name)
            arrays |= {f"{name}_content": texts.content, f"{name}_starts": texts.starts}
        with open(unfinished, "wb") as file:
            np.savez(file, **arrays)

    def flaw(file: Path) -> str:
        index = _load(file, root, shards, image_field)
        return _flaw(index, root, shards) or _difference(file, index, root, shards, label_field)

    asked = hashlib.sha256(json.dumps([image_field, label_field, list(shards)]).encode()).hexdigest()[:20]
    try:
        file = stored_file(root, f"shards-{asked}", shards, ".npz", write, flaw)
    except PermissionError:  # nothing can be kept anywhere
        return _read(root, shards, image_field, label_field)
    return _load(file, root, shards, image_field)


def _load(file: Path, root: Path, shards: Sequence[str], image_field: str | None) -> ShardIndex:
    """Return what a file of numpy holds of an index.

    Raises:
        ValueError: If it holds anything else, or more than its own size.
    """
    largest = _MOST_HEADER + 8 * sum(fingerprint(root, shard)[1] for shard in shards)
    with open_plain(file) as opened, zipfile.ZipFile(opened) as archive:
        size = os.fstat(opened.fileno()).st_size
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        stored = all(
            entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
            for entry in entries.values()
        )
        if not stored or sum(entry.file_size for entry in entries.values()) > size or size > largest:
            raise ValueError("it is compressed, or too large")
        numbers = {name: _array(archive, entries[name]) for name in _NUMBERS}
        names, texts = (
            Texts(_array(archive, entries[f"{name}_content"], np.uint8), _array(archive, entries[f"{name}_starts"]))
            for name in _TEXTS
        )
    return ShardIndex(image_field, names=names, texts=texts, **numbers)


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, dtype: Any = np.int64) -> NDArray[Any]:
    """Return an array of a zip file, whose checksum is compared; it takes no more memory than its bytes there."""
    with archive.open(entry) as file:
        np.lib.format.read_magic(file)
        shape, fortran_order, found = np.lib.format.read_array_header_1_0(file)
        content = bytearray(file.read())  # torch wants a buffer that it could write to
    if found != np.dtype(dtype) or fortran_order:
        raise ValueError(f"{entry.filename} holds {found}")
    return np.frombuffer(content, dtype).reshape(shape)


def _flaw(index: ShardIndex, root: Path, shards: Sequence[str]) -> str:
    """Return what is wrong with an index by itself, an empty text for nothing."""
    count = len(index.names)
    columns = (index.shard, index.offset, index.size, index.label)
    if any(column.shape != (count,) for column in columns) or not all(map(_hold_together, (index.names, index.texts))):
        return "its parts are of different lengths"
    if index.states.tolist() != [fingerprint(root, shard)[1:] for shard in shards]:
        return "it is of other tar files"
    if np.any(np.diff(index.shard) < 0) or not _within(index.shard, 0, len(shards)):
        return "it names tar files that do not exist"
    ends = index.states[:, 0][index.shard]
    if not _within(index.offset, -1, ends) or not _within(index.size, SPARSE, ends - np.maximum(index.offset, 0) + 1):
        return "it leads behind the end of a tar file"
    if not _within(index.label, -1, len(index.texts)):
        return "it holds labels that do not exist"
    if b".." in index.names.content.tobytes() and any(".." in name.split("/") for name in index.names):
        return "it holds names that lead out of a folder"
    return ""


def _difference(file: Path, index: ShardIndex, root: Path, shards: Sequence[str], label_field: str | None) -> str:
    """Return whether a few samples of an index differ from the tar files, an empty text if they do not."""
    chosen = draw_few(file, range(len(index.names)))
    differs = any(_differs(index, row, root, shards, label_field) for row in chosen)
    return "it differs from the tar files" if differs else ""


def _within(values: Numbers, least: int, end: int | Numbers) -> bool:
    return bool(np.all((values >= least) & (values < end)))


def _hold_together(texts: Texts) -> bool:
    starts = texts.starts
    if starts.ndim != 1 or texts.content.ndim != 1 or not len(starts):
        return False
    return bool(starts[0] == 0 and starts[-1] == len(texts.content) and np.all(np.diff(starts) >= 0))


def _differs(index: ShardIndex, row: int, root: Path, shards: Sequence[str], label_field: str | None) -> bool:
    """Return whether a sample differs from what its tar file holds, as far as a few reads show."""
    shard, name = int(index.shard[row]), index.names[row]
    offset, size = int(index.offset[row]), int(index.size[row])
    path = root / shards[shard]
    with open(path, "rb") as file:
        if offset >= 0 and size != SPARSE and not is_header_of(file, offset, size, shards[shard], name):
            return True
        if (start := _start_of(index, row)) is None:
            return False
        file.seek(start)
        for found in iterate_samples(file, path, shards[shard], index.image_field, label_field, _MOST_MEMBERS):
            if found.name == name and found.label is not None:
                text = index.texts[index.label[row]] if index.label[row] >= 0 else None
                return (found.offset, found.size, found.label) != (offset, size, text)
    return False


def _start_of(index: ShardIndex, row: int) -> int | None:
    """Return where the entries of a sample begin if samples lie one after the other, `None` if that is unknown."""
    if row == 0 or index.shard[row - 1] != index.shard[row]:
        return 0
    offset, size = int(index.offset[row - 1]), int(index.size[row - 1])
    return None if offset < 0 or size == SPARSE else offset + -(-size // 512) * 512


def _read(root: Path, shards: Sequence[str], image_field: str | None, label_field: str | None) -> ShardIndex:
    found: list[list[Sample]] = [[] for _ in shards]
    states = np.zeros((len(shards), 2), dtype=np.int64)

    def read(position: int) -> None:
        path = root / shards[position]
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            states[position] = state.st_size, state.st_mtime_ns
            found[position] = read_samples(file, path, shards[position], image_field, label_field)

    in_threads(read, len(shards), f"Reading the tar files in {root}")
    samples = [sample for part in found for sample in part]
    numbers = {text: number for number, text in enumerate(sorted({s.label for s in samples if s.label is not None}))}
    return ShardIndex(
        image_field,
        states,
        np.repeat(np.arange(len(shards)), [len(part) for part in found]),
        np.array([sample.offset for sample in samples], dtype=np.int64),
        np.array([sample.size for sample in samples], dtype=np.int64),
        np.array([-1 if s.label is None else numbers[s.label] for s in samples], dtype=np.int64),
        Texts.of([sample.name for sample in samples]),
        Texts.of(list(numbers)),
    )
