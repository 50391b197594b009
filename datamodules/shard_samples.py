"""Reading of the samples of a tar file: positions of images, and labels."""

import itertools
import json
import reprlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lit_cv.errors import argument
from lit_cv.image_formats import IMAGE_SUFFIXES
from lit_cv.printable import printable

__all__ = ["SPARSE", "Sample", "is_header_of", "iterate_samples", "read_samples"]

SPARSE = -1
"""Size that marks an image in a sparse entry, which is not stored contiguously."""

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_TRAILING = 1 << 20  # bytes to check after the end mark of a tar file; padding is far shorter
_MAX_TEXT = 1 << 16  # bytes of a label
_MAX_JSON = 1 << 24  # bytes of a JSON file with a label
_MAX_HEADER = 1 << 20  # bytes of a tar entry for long names and extended headers

_Members = dict[str, tuple[int, int]]  # offset and size of the files of a sample by extension


@dataclass(slots=True)
class Sample:
    """A sample of a tar file.

    Attributes:
        name: `SHARD/KEY.EXTENSION`.
        offset: Start of its image in bytes, -1 if it has none.
        size: Size of its image in bytes, `SPARSE` for a sparse entry.
        label: Text of its label.
    """

    name: str
    offset: int = -1
    size: int = 0
    label: str | None = None


def iterate_samples(
    file: BinaryIO,
    path: Path,
    shard: str,
    image_field: str | None,
    label_field: str | None,
    most: int | None = None,
) -> Iterator[Sample]:
    """Yield the samples of a tar file.

    Args:
        file: The open file, positioned at the first entry to read.
        path: Path of the file.
        shard: Its path relative to the folder of all tar files.
        image_field: Extension of the images; `None` uses the only image extension.
        label_field: Extension of the labels, or field of `KEY.json`; `None` for no labels.
        most: Maximum number of entries to read; `None` reads all and checks the end of the file.

    Raises:
        ValueError: If the file is compressed, truncated, broken or not a tar file, or a sample is ambiguous.
    """
    for key, members in _members(file, path, most).items():
        yield _sample(file, path, shard, key, members, image_field, label_field)


def read_samples(
    file: BinaryIO, path: Path, shard: str, image_field: str | None, label_field: str | None
) -> list[Sample]:
    """Return all samples of a tar file, see `iterate_samples`."""
    return list(iterate_samples(file, path, shard, image_field, label_field))


def is_header_of(file: BinaryIO, offset: int, size: int, shard: str, name: str) -> bool:
    """Return whether an image's header precedes it; long names, which have a separate header, are not compared."""
    file.seek(max(0, offset - 512))
    try:
        header = tarfile.TarInfo.frombuf(file.read(512), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    key, field = _split_name(header.name)
    plain = name.isascii() and len(name) - len(shard) < 100
    return header.size == size and (not plain or _sample_name(shard, key, field) == name)


def _sample(
    file: BinaryIO,
    path: Path,
    shard: str,
    key: str,
    members: _Members,
    image_field: str | None,
    label_field: str | None,
) -> Sample:
    """Return the sample with these files."""
    shown = printable(f"{path}: {key}", lines=False)
    field = _image_field(members, image_field, shown)
    sample = Sample(_sample_name(shard, key, field))
    if field:
        sample.offset, sample.size = members[field]
    if label_field is not None:
        sample.label = _label(file, members, label_field, shown)
    return sample


def _sample_name(shard: str, key: str, field: str | None) -> str:
    clean = "/".join(part for part in key.split("/") if part not in ("", ".", ".."))
    return f"{shard}/{clean}" + (f".{field}" if field else "")


def _split_name(name: str) -> tuple[str, str]:
    """Return KEY and extension of a file in a tar file; an empty KEY if it belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, _, field = base.partition(".")
    return (folder + slash + stem if stem else ""), field.lower()


def _members(file: BinaryIO, path: Path, most: int | None = None) -> dict[str, _Members]:
    """Return offsets and sizes of the files in a tar file by KEY and extension, in their order.

    Args:
        file: The open file, positioned at the first entry to read.
        path: Path of the file.
        most: Maximum number of entries to read; `None` reads all and checks the end of the file.
    """
    samples: dict[str, _Members] = {}
    for member in itertools.islice(_entries(file, path), most):
        key, field = _split_name(member.name)
        base = member.name.rpartition("/")[2]
        if not (member.isreg() and key and "." in base) or (base.startswith("__") and base.endswith("__")):
            continue  # folders, hidden files, and metadata of tools that write shards
        members = samples.setdefault(key, {})
        if field in members:
            raise ValueError(f"{_shown(path)} contains {member.name!r} twice: write it again with unique names.")
        members[field] = member.offset_data, SPARSE if member.issparse() else member.size
    return samples


class _Headers:
    """A tar file of which only headers are read, with a limit on the length that a header may declare.

    Args:
        file: The file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header declares {size:,} bytes")
        return self._file.read(size)


def _entries(file: BinaryIO, path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the entries of a tar file from the current position, and raise if its end is invalid."""
    begin = file.tell()
    start = file.read(8)
    if kind := next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None):
        raise ValueError(f"{_shown(path)} is compressed ({kind}), so images cannot be read by position: decompress it.")
    file.seek(begin)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as tar:
            while (member := tar.next()) is not None:
                if tar.offset <= member.offset:
                    raise tarfile.ReadError("an entry declares a negative size")
                tar.members.clear()  # type: ignore[attr-defined]  # there can be millions
                yield member
            end = tar.offset
    except Exception as error:  # broken headers raise all kinds of errors
        reason = printable(str(error), lines=False)
        raise ValueError(
            f"{_shown(path)} is truncated or not a tar file ({reason}): download or write it again."
        ) from None
    _check_end(file, path, end)


def _check_end(file: BinaryIO, path: Path, end: int) -> None:
    """Raise if a tar file does not end with the end mark, as `tarfile` accepts any end."""
    file.seek(end)
    mark, trailing = file.read(512), file.read(_TRAILING)
    if len(mark) < 512:
        raise ValueError(f"{_shown(path)} is truncated (its end mark is missing): download or write it again.")
    if mark.strip(b"\0"):
        raise ValueError(f"{_shown(path)} is broken at byte {end:,}: download or write it again.")
    if trailing.strip(b"\0"):
        raise ValueError(
            f"{_shown(path)} has data after its end mark: join tar files with `tar --concatenate`, not `cat`."
        )


def _image_field(members: _Members, wanted: str | None, name: str) -> str | None:
    if wanted is not None:
        wanted = wanted.lower().lstrip(".")
        return wanted if wanted in members else None
    images = [field for field in members if f".{field}" in IMAGE_SUFFIXES]
    if len(images) > 1:
        shown = printable(", ".join(images), lines=False)
        raise ValueError(f"{name} has several images ({shown}): choose one with {argument('image_field')}.")
    return images[0] if images else None


def _label(file: BinaryIO, members: _Members, field: str, name: str) -> str | None:
    """Return the text of `KEY.field`, or of that field of `KEY.json`; `None` if there is neither."""
    value: Any = None
    if (extension := field.lower().lstrip(".")) in members:
        offset, size = members[extension]
        content = _content(file, offset, min(size, _MAX_TEXT), f"{name}.{extension}")
        value = content.decode("utf-8-sig", errors="replace")
    elif "json" in members:
        value = _json_field(file, *members["json"], field, f"{name}.json")
    if isinstance(value, dict | list):
        raise ValueError(f"{name} has several labels, {field}={reprlib.repr(value)}: one per sample is supported.")
    if value is None:
        return None
    text = str(value).strip()[:_MAX_TEXT].strip()
    return text.encode("utf-8", "backslashreplace").decode() or None  # JSON may contain lone surrogates


def _json_field(file: BinaryIO, offset: int, size: int, field: str, name: str) -> Any:
    if size > _MAX_JSON:
        raise ValueError(f"{name} has {size:,} bytes, over the limit of {_MAX_JSON:,}: it is not a label.")
    try:
        content = json.loads(_content(file, offset, size, name))
    except RecursionError:
        raise ValueError(f"{name} is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {printable(str(error), lines=False)}.") from None
    return content.get(field) if isinstance(content, dict) else None


def _content(file: BinaryIO, offset: int, size: int, name: str) -> bytes:
    if size == SPARSE:
        raise ValueError(f"{name} is a sparse entry: write the tar file again without sparse entries.")
    file.seek(offset)
    return file.read(size)


def _shown(path: Path) -> str:
    return printable(str(path), lines=False)
