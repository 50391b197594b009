"""Index of images and labels in tar files, built once and cached beside the files."""

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
from datamodules.stored_file import draw_few, fingerprint, open_regular, stored_file
from datamodules.texts import Texts
from datamodules.threads import in_threads

__all__ = ["COMPRESSED", "MAX_IMAGE_BYTES", "ShardIndex", "index_shards"]

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_MAX_OVERHEAD = 1 << 20  # bytes of the numpy file apart from its arrays
_MAX_MEMBERS = 16  # entries of a tar file to read for each verified sample
MAX_IMAGE_BYTES = 1 << 31
"""Maximum size of an image."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of tar files, in their order.

    Attributes:
        image_field: Extension of the images, see `index_shards`.
        states: Size and modification time of each tar file when it was read, (shards, 2).
        shard: Number of the tar file of each sample, (N,).
        offset: Start of its image in bytes, -1 if it has none, (N,).
        size: Size of its image in bytes, `SPARSE` for a sparse entry, (N,).
        label: Number of its label in `texts`, -1 if it has none, (N,).
        names: `SHARD/KEY.EXTENSION` of each sample. These are names, not paths: parts that would point outside a
            folder are removed.
        texts: The distinct labels.
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
    """Return the index of tar files, from the cache if they have not changed.

    Args:
        root: Folder that the paths are relative to.
        shards: The tar files.
        image_field: Extension of the images; `None` uses the only image extension.
        label_field: Extension of the labels, or field of `KEY.json`; `None` for no labels.

    Raises:
        ValueError: If a file is compressed, truncated, broken or not a tar file, or a sample is ambiguous.
    """

    def write(draft: Path) -> None:
        index = _read(root, shards, image_field, label_field)
        arrays = {name: getattr(index, name) for name in _NUMBERS}
        for name in _TEXTS:
            texts = getattr(index, name)
            arrays |= {f"{name}_content": texts.content, f"{name}_starts": texts.starts}
        with open(draft, "wb") as file:
            np.savez(file, **arrays)

    def flaw(file: Path) -> str:
        index = _load(file, root, shards, image_field)
        return _flaw(index, root, shards) or _difference(file, index, root, shards, label_field)

    request = hashlib.sha256(json.dumps([image_field, label_field, list(shards)]).encode()).hexdigest()[:20]
    try:
        file = stored_file(root, f"shards-{request}", shards, ".npz", write, flaw)
    except PermissionError:  # no writable cache folder
        return _read(root, shards, image_field, label_field)
    return _load(file, root, shards, image_field)


def _load(file: Path, root: Path, shards: Sequence[str], image_field: str | None) -> ShardIndex:
    """Load an index from a numpy file.

    Raises:
        ValueError: If its content is invalid, or would expand to more than the file size.
    """
    largest = _MAX_OVERHEAD + 8 * sum(fingerprint(root, shard)[1] for shard in shards)
    with open_regular(file) as opened, zipfile.ZipFile(opened) as archive:
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
    """Return an array from a zip file with a verified checksum, using no more memory than its stored size."""
    with archive.open(entry) as file:
        np.lib.format.read_magic(file)
        shape, fortran_order, stored_dtype = np.lib.format.read_array_header_1_0(file)
        content = bytearray(file.read())  # torch requires a writable buffer
    if stored_dtype != np.dtype(dtype) or fortran_order:
        raise ValueError(f"{entry.filename} contains {stored_dtype}")
    return np.frombuffer(content, dtype).reshape(shape)


def _flaw(index: ShardIndex, root: Path, shards: Sequence[str]) -> str:
    """Return why an index is inconsistent, or an empty string."""
    count = len(index.names)
    columns = (index.shard, index.offset, index.size, index.label)
    if any(column.shape != (count,) for column in columns) or not all(map(_are_consistent, (index.names, index.texts))):
        return "its arrays have different lengths"
    if index.states.tolist() != [fingerprint(root, shard)[1:] for shard in shards]:
        return "it belongs to other tar files"
    if np.any(np.diff(index.shard) < 0) or not _within(index.shard, 0, len(shards)):
        return "it refers to tar files that do not exist"
    ends = index.states[:, 0][index.shard]
    if not _within(index.offset, -1, ends) or not _within(index.size, SPARSE, ends - np.maximum(index.offset, 0) + 1):
        return "it points beyond the end of a tar file"
    if not _within(index.label, -1, len(index.texts)):
        return "it refers to labels that do not exist"
    if b".." in index.names.content.tobytes() and any(".." in name.split("/") for name in index.names):
        return "it contains names that point outside a folder"
    return ""


def _difference(file: Path, index: ShardIndex, root: Path, shards: Sequence[str], label_field: str | None) -> str:
    """Compare a few samples of an index with the tar files; return the problem or an empty string."""
    chosen = draw_few(file, range(len(index.names)))
    differs = any(_differs(index, row, root, shards, label_field) for row in chosen)
    return "it differs from the tar files" if differs else ""


def _within(values: Numbers, least: int, end: int | Numbers) -> bool:
    return bool(np.all((values >= least) & (values < end)))


def _are_consistent(texts: Texts) -> bool:
    starts = texts.starts
    if starts.ndim != 1 or texts.content.ndim != 1 or not len(starts):
        return False
    return bool(starts[0] == 0 and starts[-1] == len(texts.content) and np.all(np.diff(starts) >= 0))


def _differs(index: ShardIndex, row: int, root: Path, shards: Sequence[str], label_field: str | None) -> bool:
    """Return whether a sample differs from its tar file, reading only a few entries."""
    shard, name = int(index.shard[row]), index.names[row]
    offset, size = int(index.offset[row]), int(index.size[row])
    path = root / shards[shard]
    with open(path, "rb") as file:
        if offset >= 0 and size != SPARSE and not is_header_of(file, offset, size, shards[shard], name):
            return True
        if (start := _start_of(index, row)) is None:
            return False
        file.seek(start)
        for sample in iterate_samples(file, path, shards[shard], index.image_field, label_field, _MAX_MEMBERS):
            if sample.name == name and sample.label is not None:
                text = index.texts[index.label[row]] if index.label[row] >= 0 else None
                return (sample.offset, sample.size, sample.label) != (offset, size, text)
    return False


def _start_of(index: ShardIndex, row: int) -> int | None:
    """Return the start of the entries of a sample if samples are contiguous, or `None` if unknown."""
    if row == 0 or index.shard[row - 1] != index.shard[row]:
        return 0
    offset, size = int(index.offset[row - 1]), int(index.size[row - 1])
    return None if offset < 0 or size == SPARSE else offset + -(-size // 512) * 512


def _read(root: Path, shards: Sequence[str], image_field: str | None, label_field: str | None) -> ShardIndex:
    samples_by_shard: list[list[Sample]] = [[] for _ in shards]
    states = np.zeros((len(shards), 2), dtype=np.int64)

    def read(position: int) -> None:
        path = root / shards[position]
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            states[position] = state.st_size, state.st_mtime_ns
            samples_by_shard[position] = read_samples(file, path, shards[position], image_field, label_field)

    in_threads(read, len(shards), f"Reading the tar files in {root}")
    samples = [sample for part in samples_by_shard for sample in part]
    numbers = {text: number for number, text in enumerate(sorted({s.label for s in samples if s.label is not None}))}
    return ShardIndex(
        image_field,
        states,
        np.repeat(np.arange(len(shards)), [len(part) for part in samples_by_shard]),
        np.array([sample.offset for sample in samples], dtype=np.int64),
        np.array([sample.size for sample in samples], dtype=np.int64),
        np.array([-1 if s.label is None else numbers[s.label] for s in samples], dtype=np.int64),
        Texts.of([sample.name for sample in samples]),
        Texts.of(list(numbers)),
    )
