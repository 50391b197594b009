"""The samples of a tar file: where their images lie, and what their labels say."""

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
"""Size that stands for an image stored with holes, which lies nowhere in one piece."""

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BEHIND = 1 << 20  # bytes behind the end of a tar file that are looked at; what fills the last record is far less
_MOST_TEXT = 1 << 16  # bytes of a label
_MOST_JSON = 1 << 24  # bytes of a JSON file that holds one
_MOST_HEADER = 1 << 20  # bytes of a tar file's entry for a long name, or for what else its headers have no place for

_Members = dict[str, tuple[int, int]]  # offset and size of the files of a sample, by extension


@dataclass(slots=True)
class Sample:
    """A sample of a tar file.

    Attributes:
        name: `SHARD/KEY.EXTENSION`.
        offset: Byte at which its image starts, -1 where it has none.
        size: Bytes of its image, `SPARSE` for one stored with holes.
        label: What its label says.
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
        file: The file, at the entry to start from.
        path: Its name.
        shard: Its path below the folder of all tar files.
        image_field: Extension of the images; `None` takes the only one that is an image's.
        label_field: Extension of the labels, or field of `KEY.json`; `None` reads none.
        most: How many entries to look at; `None` for all, and the end of the file.

    Raises:
        ValueError: If the file is compressed, truncated, broken or no tar file, or a sample is ambiguous.
    """
    for key, members in _members(file, path, most).items():
        yield _sample(file, path, shard, key, members, image_field, label_field)


def read_samples(
    file: BinaryIO, path: Path, shard: str, image_field: str | None, label_field: str | None
) -> list[Sample]:
    """Return all samples of a tar file, see `iterate_samples`."""
    return list(iterate_samples(file, path, shard, image_field, label_field))


def is_header_of(file: BinaryIO, offset: int, size: int, shard: str, name: str) -> bool:
    """Return whether there is the header of an image before it; longer names stand in a header of their own."""
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
    """Return a sample, of which the files are known."""
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
        raise ValueError(f"{name} has several images ({shown}): choose one with {argument('image_field')}.")
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
