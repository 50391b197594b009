"""Where the images in tar files lie, and what their labels say: found out once, and kept beside the files."""

import hashlib
import itertools
import json
import os
import reprlib
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.stored_file import draw_few, fingerprint, open_plain, stored_file
from datamodules.threads import in_threads
from lit_cv.image_formats import IMAGE_SUFFIXES
from lit_cv.printable import printable

__all__ = ["COMPRESSED", "MOST_IMAGE", "SPARSE", "ShardIndex", "Texts", "index_shards"]

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BEHIND = 1 << 20  # bytes behind the end of a tar file that are looked at; what fills the last record is far less
_MOST_TEXT = 1 << 16  # bytes of a label
_MOST_JSON = 1 << 24  # bytes of a JSON file that holds one
_MOST_HEADER = 1 << 20  # bytes of a tar file's entry for a long name, or for what else its headers have no place for
_MOST_MEMBERS = 16  # entries of a tar file that are looked at for each
MOST_IMAGE = 1 << 31
"""Bytes of an image that is read."""
SPARSE = -1
"""Size that stands for an image stored with holes, which lies nowhere in one piece."""

Numbers = NDArray[np.int64]
_Members = dict[str, tuple[int, int]]  # offset and size of the files of a sample, by extension


class Texts(Sequence[str]):
    """Many strings in two arrays, which take a tenth of a list's memory, and none of it twice in worker processes.

    Args:
        content: All of them in UTF-8, one after the other, (bytes,) uint8; bytes of names that are no UTF-8 stay.
        starts: Where each starts, and the end, (N + 1,).

    Example:
        >>> texts = Texts.of(["a", "", "bc"])
        >>> len(texts), texts[0], texts[-1], list(texts)
        (3, 'a', 'bc', ['a', '', 'bc'])
    """

    def __init__(self, content: NDArray[np.uint8], starts: Numbers) -> None:
        self.content, self.starts = content, starts

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        """Keep these strings."""
        parts = [text.encode("utf-8", "surrogateescape") for text in texts]
        starts = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")  # which also ends an iteration
        position = index % len(self)
        content = self.content[self.starts[position] : self.starts[position + 1]].tobytes()
        return content.decode("utf-8", "surrogateescape")


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


@dataclass(slots=True)
class _Sample:
    name: str
    offset: int = -1
    size: int = 0
    label: str | None = None


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
        if offset >= 0 and size != SPARSE and not _is_header(file, offset, size, shards[shard], name):
            return True
        if (start := _start_of(index, row)) is None:
            return False
        file.seek(start)
        for key, members in _members(file, path, _MOST_MEMBERS).items():
            found = _sample(file, path, shards[shard], key, members, index.image_field, label_field)
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


def _is_header(file: BinaryIO, offset: int, size: int, shard: str, name: str) -> bool:
    """Return whether there is the header of an image before it; longer names stand in a header of their own."""
    file.seek(max(0, offset - 512))
    try:
        header = tarfile.TarInfo.frombuf(file.read(512), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    key, field = _split_name(header.name)
    plain = name.isascii() and len(name) - len(shard) < 100
    return header.size == size and (not plain or _sample_name(shard, key, field) == name)


def _read(root: Path, shards: Sequence[str], image_field: str | None, label_field: str | None) -> ShardIndex:
    found: list[list[_Sample]] = [[] for _ in shards]
    states = np.zeros((len(shards), 2), dtype=np.int64)

    def read(position: int) -> None:
        path = root / shards[position]
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            states[position] = state.st_size, state.st_mtime_ns
            found[position] = _samples(file, path, shards[position], image_field, label_field)

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


def _samples(file: BinaryIO, path: Path, shard: str, image_field: str | None, label_field: str | None) -> list[_Sample]:
    """Return the samples of a tar file."""
    members = _members(file, path)
    return [_sample(file, path, shard, key, found, image_field, label_field) for key, found in members.items()]


def _sample(
    file: BinaryIO,
    path: Path,
    shard: str,
    key: str,
    members: _Members,
    image_field: str | None,
    label_field: str | None,
) -> _Sample:
    """Return a sample, of which the files are known."""
    shown = printable(f"{path}: {key}", lines=False)
    field = _image_field(members, image_field, shown)
    sample = _Sample(_sample_name(shard, key, field))
    if field:
        sample.offset, sample.size = members[field]
    if label_field is not None:
        sample.label = _label(file, members, label_field, shown)
    return sample


def _sample_name(shard: str, key: str, field: str | None) -> str:
    clean = "/".join(part for part in key.split("/") if part not in ("", ".", ".."))
    return f"{shard}/{clean}" + (f".{field}" if field else "")


def _split_name(name: str) -> tuple[str, str]:
    """Return the KEY and the extension of a file in a tar file; an empty text for what is none of a sample."""
    folder, slash, base = name.rpartition("/")
    stem, _, field = base.partition(".")
    return (folder + slash + stem if stem else ""), field.lower()


def _members(file: BinaryIO, path: Path, most: int | None = None) -> dict[str, _Members]:
    """Return where the files in a tar file start and how long they are, by KEY and extension, in their order.

    Args:
        file: The file, at the entry to start from.
        path: Its name.
        most: How many entries to look at; `None` for all, and the end of the file.
    """
    samples: dict[str, _Members] = {}
    for member in itertools.islice(_entries(file, path), most):
        key, field = _split_name(member.name)
        base = member.name.rpartition("/")[2]
        if not (member.isreg() and key and "." in base) or (base.startswith("__") and base.endswith("__")):
            continue  # folders, hidden files, and notes of the tools that write shards
        members = samples.setdefault(key, {})
        if field in members:
            raise ValueError(f"{_shown(path)} holds {member.name!r} twice: write it again with each name once.")
        members[field] = member.offset_data, SPARSE if member.issparse() else member.size
    return samples


class _Headers:
    """A tar file that is read by its headers alone, none of which is longer than one can be: it may claim any length.

    Args:
        file: The file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self._file.read(size)


def _entries(file: BinaryIO, path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the entries of a tar file from where the file is, and refuse it if its end is none."""
    begin = file.tell()
    start = file.read(8)
    if kind := next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None):
        raise ValueError(
            f"{_shown(path)} is compressed ({kind}), so that no image can be found by its position: unpack it."
        )
    file.seek(begin)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as tar:
            while (member := tar.next()) is not None:
                if tar.offset <= member.offset:
                    raise tarfile.ReadError("an entry claims less than no bytes")
                tar.members.clear()  # type: ignore[attr-defined]  # a set of millions of images has as many
                yield member
            end = tar.offset
    except Exception as error:  # whatever broken headers make of it
        reason = printable(str(error), lines=False)
        raise ValueError(f"{_shown(path)} is truncated or no tar file ({reason}): fetch or write it again.") from None
    _check_end(file, path, end)


def _check_end(file: BinaryIO, path: Path, end: int) -> None:
    """Refuse a tar file whose end is not the mark that belongs there: `tarfile` takes any end for one."""
    file.seek(end)
    mark, behind = file.read(512), file.read(_BEHIND)
    if len(mark) < 512:
        raise ValueError(f"{_shown(path)} is truncated (it lacks the mark of its end): fetch or write it again.")
    if mark.strip(b"\0"):
        raise ValueError(f"{_shown(path)} is broken at byte {end:,}: fetch or write it again.")
    if behind.strip(b"\0"):
        raise ValueError(
            f"{_shown(path)} goes on behind its end: join tar files with `tar --concatenate`, not with `cat`."
        )


def _image_field(members: _Members, wanted: str | None, name: str) -> str | None:
    if wanted is not None:
        wanted = wanted.lower().lstrip(".")
        return wanted if wanted in members else None
    images = [field for field in members if f".{field}" in IMAGE_SUFFIXES]
    if len(images) > 1:
        shown = printable(", ".join(images), lines=False)
        raise ValueError(f"{name} has several images ({shown}): choose one with --data.image_field.")
    return images[0] if images else None


def _label(file: BinaryIO, members: _Members, field: str, name: str) -> str | None:
    """Return the text of `KEY.field`, or of that field of `KEY.json`; nothing where there is neither."""
    value: Any = None
    if (extension := field.lower().lstrip(".")) in members:
        offset, size = members[extension]
        content = _content(file, offset, min(size, _MOST_TEXT), f"{name}.{extension}")
        value = content.decode("utf-8-sig", errors="replace")
    elif "json" in members:
        value = _json_field(file, *members["json"], field, f"{name}.json")
    if isinstance(value, dict | list):
        raise ValueError(f"{name} has several labels, {field}={reprlib.repr(value)}: one a sample is read.")
    if value is None:
        return None
    text = str(value).strip()[:_MOST_TEXT].strip()
    return text.encode("utf-8", "backslashreplace").decode() or None  # JSON can hold halves of characters


def _json_field(file: BinaryIO, offset: int, size: int, field: str, name: str) -> Any:
    if size > _MOST_JSON:
        raise ValueError(f"{name} has {size:,} bytes, more than {_MOST_JSON:,}: that is no label.")
    try:
        content = json.loads(_content(file, offset, size, name))
    except RecursionError:
        raise ValueError(f"{name} is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {printable(str(error), lines=False)}.") from None
    return content.get(field) if isinstance(content, dict) else None


def _content(file: BinaryIO, offset: int, size: int, name: str) -> bytes:
    if size == SPARSE:
        raise ValueError(f"{name} is stored with holes, and not in one piece: write the tar file again without them.")
    file.seek(offset)
    return file.read(size)


def _shown(path: Path) -> str:
    return printable(str(path), lines=False)
