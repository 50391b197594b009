"""Where the images in tar files lie, and what their labels say: found out once, and kept beside the files."""

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from datamodules.images import IMAGE_SUFFIXES
from datamodules.stored_file import stored_file
from datamodules.threads import in_threads

__all__ = ["COMPRESSED", "ShardIndex", "Texts", "index_shards"]

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BEHIND = 1 << 20  # bytes behind the end of a tar file that are looked at; what fills the last record is far less
_MOST_TEXT = 1 << 16  # bytes of a label

Numbers = NDArray[np.int64]


class Texts(Sequence[str]):
    """Many strings in two arrays, which take a tenth of a list's memory, and none of it twice in worker processes.

    Args:
        content: All of them in UTF-8, one after the other, (bytes,) uint8.
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
        parts = [text.encode() for text in texts]
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
        return self.content[self.starts[position] : self.starts[position + 1]].tobytes().decode()


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of tar files, in their order.

    Attributes:
        image_field: What the images were looked for by, see `index_shards`.
        states: Size and time of change of each tar file when it was read, (shards, 2).
        shard: Which tar file each sample lies in, (N,).
        offset: Byte at which its image starts, -1 where it has none, (N,).
        size: Bytes of its image, (N,).
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

    asked = hashlib.sha256(json.dumps([image_field, label_field, list(shards)]).encode()).hexdigest()[:20]
    try:
        file = stored_file(root, f"shards-{asked}", shards, ".npz", write)
    except PermissionError:  # nothing can be kept anywhere
        return _read(root, shards, image_field, label_field)
    with np.load(file) as kept:
        numbers = [kept[name] for name in _NUMBERS]
        texts = [Texts(kept[f"{name}_content"], kept[f"{name}_starts"]) for name in _TEXTS]
    return ShardIndex(image_field, *numbers, *texts)


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
    samples = []
    for key, members in _members(file, path).items():
        clean = "/".join(part for part in key.split("/") if part not in ("", ".", ".."))
        field = _image_field(members, image_field, f"{path}: {key}")
        sample = _Sample(f"{shard}/{clean}" + (f".{field}" if field else ""))
        if field:
            sample.offset, sample.size = members[field]
        if label_field is not None:
            sample.label = _label(file, members, label_field, f"{path}: {key}")
        samples.append(sample)
    return samples


def _members(file: BinaryIO, path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Return where the files in a tar file start and how long they are, by KEY and extension, in their order."""
    start = file.read(8)
    if kind := next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None):
        raise ValueError(f"{path} is compressed ({kind}), so that no image can be found by its position: unpack it.")
    file.seek(0)
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                folder, slash, base = member.name.rpartition("/")
                stem, dot, field = base.partition(".")
                if not (member.isreg() and stem and dot) or (stem.startswith("__") and base.endswith("__")):
                    continue  # folders, hidden files, and notes of the tools that write shards
                members = samples.setdefault(folder + slash + stem, {})
                if field.lower() in members:
                    raise ValueError(f"{path} holds {member.name!r} twice: write it again with each name once.")
                members[field.lower()] = member.offset_data, member.size
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"{path} is truncated or no tar file ({error}): fetch or write it again.") from None
    _check_end(file, path, end)
    return samples


def _check_end(file: BinaryIO, path: Path, end: int) -> None:
    """Refuse a tar file whose end is not the mark that belongs there: `tarfile` takes any end for one."""
    file.seek(end)
    mark, behind = file.read(512), file.read(_BEHIND)
    if len(mark) < 512:
        raise ValueError(f"{path} is truncated (it lacks the mark of its end): fetch or write it again.")
    if mark.strip(b"\0"):
        raise ValueError(f"{path} is broken at byte {end:,}: fetch or write it again.")
    if behind.strip(b"\0"):
        raise ValueError(f"{path} goes on behind its end: join tar files with `tar --concatenate`, not with `cat`.")


def _image_field(members: dict[str, tuple[int, int]], wanted: str | None, name: str) -> str | None:
    if wanted is not None:
        wanted = wanted.lower().lstrip(".")
        return wanted if wanted in members else None
    images = [field for field in members if f".{field}" in IMAGE_SUFFIXES]
    if len(images) > 1:
        raise ValueError(f"{name} has several images ({', '.join(images)}): choose one with --data.image_field.")
    return images[0] if images else None


def _label(file: BinaryIO, members: dict[str, tuple[int, int]], field: str, name: str) -> str | None:
    """Return the text of `KEY.field`, or of that field of `KEY.json`; nothing where there is neither."""
    value: Any = None
    if (extension := field.lower().lstrip(".")) in members:
        value = _content(file, *members[extension])[:_MOST_TEXT].decode("utf-8", errors="replace")
    elif "json" in members:
        try:
            content = json.loads(_content(file, *members["json"]))
        except ValueError as error:
            raise ValueError(f"{name}.json is not valid JSON: {error}.") from None
        value = content.get(field) if isinstance(content, dict) else None
    if isinstance(value, dict | list):
        raise ValueError(f"{name} has several labels, {field}={str(value)[:80]}: one a sample is read.")
    return None if value is None else str(value).strip() or None


def _content(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
