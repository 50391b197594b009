"""Reading checkpoint files, whose fields are checked before anything is built from them. Pure torch."""

import mmap
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_cv.plain_values import require_plain

__all__ = [
    "INITIAL_WEIGHTS",
    "CheckpointFile",
    "RefusedFileError",
    "load_tensors",
    "read_checkpoint",
    "require_stored_tensors",
]

INITIAL_WEIGHTS = ("weights", "teacher_weights")
"""Arguments of modules that name weights to start from, which a checkpoint then contains."""

_UNREADABLE = "it is a file of another kind, or truncated"
_DROPPED = frozenset({"_instantiator", "_class_path"})  # from Lightning's CLI: they name code to call
_ARCHIVE = b"PK\x03\x04"  # torch recognizes its archives by these bytes
_BYTES = b"\nbytearray\n"  # the one object of any size that torch lets a file build; no checkpoint needs it
_ALWAYS_ALLOWED = 512 << 20  # bytes that a tensor of any file may expand to: the largest layers are of this size
_MAX_STEPS = 2**53
_MAX_NAME = 300
_MAX_PATH = 4096
_LARGEST_PUBLISHED = 4 << 30  # bytes


class RefusedFileError(ValueError):
    """A refused file of tensors; the message continues a sentence that names the file: `it holds ...`."""


@dataclass(frozen=True)
class CheckpointFile:
    """The fields of a checkpoint that this project reads, with checked types.

    Attributes:
        path: The file.
        size: Bytes of the file, plus those of the base weights if it holds only an update of them.
        class_path: Import path of the saved module, `None` if another program wrote the file. It is text from a file:
            `lit_cv.registry.resolve_class` decides whether it may become a class.
        hyper_parameters: Constructor arguments of that module, plain values. `INITIAL_WEIGHTS` are `None`, since the
            checkpoint has its own weights, unless it holds only an update of them.
        step: Optimizer steps taken when it was written.
        class_names: Names of the classes.
        state_dict: The weights.
        classes: Names of the module's classes, by the attribute of a DataModule that lists them.
        preprocessing: How images are prepared for its backbone, unchecked; `None` if the file does not record it.
        data_parameters: Constructor arguments of the DataModule that it was trained on, unchecked.
        base: Digest of the frozen weights that it refers to instead of holding them; `None` if it holds all weights.
    """

    path: Path
    size: int
    class_path: str | None
    hyper_parameters: dict[str, Any]
    step: int
    class_names: list[str]
    state_dict: Mapping[str, Tensor] = field(repr=False)
    classes: dict[str, list[str]] = field(default_factory=dict)
    preprocessing: Any = None
    data_parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    base: str | None = None


def load_tensors(path: Path) -> Any:
    """Load a file of tensors and plain values that `torch.save` wrote, memory-mapped if possible.

    Args:
        path: The file.

    Raises:
        RefusedFileError: If it would run code, if its records are compressed (they may unpack to any size), or if it
            does not store all numbers of its tensors.
        Exception: What `torch.load` raises for a file of another kind.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise RefusedFileError("it is not a regular file")
    with open(path, "rb") as file:
        archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    if (_archive_builds_bytes if archive else _builds_bytes)(path):
        raise RefusedFileError("it builds bytes besides its tensors, which torch.save never does")
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    require_stored_tensors(content, os.stat(path).st_size)
    return content


def require_stored_tensors(content: Any, size: int) -> None:
    """Refuse tensors that a file describes but does not hold: reading them could exhaust the memory.

    Args:
        content: What was loaded: nested dicts, lists, tuples and sets of tensors and other values.
        size: Bytes of the file.

    Raises:
        RefusedFileError: If a tensor is not of class `Tensor` or `Parameter`, is not dense, or expands to more bytes
            than both the file and 512 MiB.
    """
    limit = max(size, _ALWAYS_ALLOWED)
    for name, value in _tensors(content):
        if type(value) not in (Tensor, nn.Parameter):
            raise RefusedFileError(f"it holds {name!r}, a {type(value).__name__}; only plain tensors are allowed")
        if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
            raise RefusedFileError(f"it holds {name!r}, a tensor that is sparse, quantized or without data")
        if value.numel() * value.element_size() > limit:
            raise RefusedFileError(f"it holds {name!r}, a tensor that expands a few numbers to {value.numel():,}")


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor in nested dicts, lists, tuples and sets once, with the last part of its name."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name or "a tensor", value
        if not isinstance(value, dict | list | tuple | set | frozenset) or id(value) in seen:
            continue
        seen.add(id(value))
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        waiting += [(f"{name}.{_label(key)}".lstrip(".")[-_MAX_NAME:], part) for key, part in parts]
        if isinstance(value, dict):
            waiting += [(f"{name}.key", key) for key in value if isinstance(key, Tensor | tuple | frozenset)]


def _label(key: Any) -> str:
    """Return a short name for a key of a file; an integer may have more digits than Python prints."""
    if isinstance(key, str):
        return key[:_MAX_NAME]
    return str(key) if isinstance(key, int) and abs(key) < _MAX_STEPS else type(key).__name__


def _archive_builds_bytes(path: Path) -> bool:
    """Check the records of an archive, and return whether its pickle builds bytes."""
    size = os.stat(path).st_size
    try:
        _require_one_directory(path, size)
        with zipfile.ZipFile(path) as content:
            records = content.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise RefusedFileError("its records are compressed, which torch.save never does")
            if any(record.file_size != record.compress_size for record in records) or size < sum(
                record.file_size for record in records
            ):
                raise RefusedFileError("its records are longer than the file")
            pickles = [record for record in records if "pkl" in record.orig_filename.lower()]
            return any(_BYTES in content.read(record) for record in pickles)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error) as error:
        raise ValueError(f"its archive cannot be read: {error}") from None


def _require_one_directory(path: Path, size: int) -> None:
    """Refuse an archive in which torch and Python would find different lists of records.

    Raises:
        ValueError: If the list of records does not directly precede the end record that points to it.
    """
    with open(path, "rb") as file:
        file.seek(max(0, size - 98))
        tail = file.read(98).rjust(98, b"\0")
    end, at = tail[-22:], size - 22
    if end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0":
        raise ValueError("it does not end as files of torch.save do")
    length, start = struct.unpack("<LL", end[12:20])
    if tail[-42:-38] == b"PK\x06\x07":
        at -= 76
        length, start = struct.unpack("<QQ", tail[40:56])
        if tail[:4] != b"PK\x06\x06" or struct.unpack("<Q", tail[-34:-26])[0] != at:
            raise ValueError("it does not end as files of torch.save do")
    if start + length != at:
        raise ValueError("its list of records is not at its end")


def _builds_bytes(path: Path) -> bool:
    """Return whether the pickle of a file that is not an archive builds bytes."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(_BYTES) >= 0


def read_checkpoint(path: Path) -> CheckpointFile:
    """Read a checkpoint that a Trainer wrote, and check the types of its fields.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint, holds Python objects, or a field has the wrong type.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint not found: {str(path)!r}.")
    try:
        content = load_tensors(path)
    except Exception as error:  # torch raises all kinds of errors for files of other kinds
        raise ValueError(f"{path} is not a valid checkpoint of lit_cv: {_reason(path, error)}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ValueError(f"{path} is not a checkpoint of a Trainer: it has no `state_dict`.")
    for key, value in content["state_dict"].items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path} is damaged: {_label(key)} of its `state_dict` is not a named tensor.")
    metadata = _field(path, content, "lit_cv", dict, {})
    stored_parameters = _field(path, content, "hyper_parameters", Mapping, {})
    require_plain(metadata, f"{path}: lit_cv", leaves=Tensor)
    require_plain(dict(stored_parameters), f"{path}: hyper_parameters")
    _require_texts(path, "the names of its `hyper_parameters`", list(stored_parameters))
    parameters = {name: value for name, value in stored_parameters.items() if name not in _DROPPED}
    base = _field(path, metadata, "base", str, None)
    needed = {"weights"} if base is not None else set()
    parameters |= dict.fromkeys(parameters.keys() & set(INITIAL_WEIGHTS) - needed)
    names = _field(path, metadata, "class_names", list, [])
    _require_texts(path, "its `class_names`", names)
    classes = _field(path, metadata, "classes", dict, {"class_names": names} if names else {})
    for attribute, entries in classes.items():
        if not isinstance(entries, list):
            raise ValueError(f"{path} is damaged: its `classes` are not lists.")
        _require_texts(path, "its `classes`", [attribute, *entries])
    class_path = _field(path, metadata, "class_path", str, None)
    _require_texts(path, "its `class_path`", [class_path or ""])
    step = _field(path, content, "global_step", int, 0)
    if not 0 <= step < _MAX_STEPS:
        raise ValueError(f"{path} is damaged: its `global_step` is not a number of steps.")
    size = path.stat().st_size
    if base is not None:
        size += _size_of_base(path, parameters.get("weights"))
    return CheckpointFile(
        path=path,
        size=size,
        class_path=class_path,
        hyper_parameters=parameters,
        step=step,
        class_names=names,
        state_dict=content["state_dict"],
        classes=classes,
        preprocessing=metadata.get("preprocessing"),
        data_parameters=_field(path, content, "datamodule_hyper_parameters", Mapping, {}),
        base=base,
    )


def _size_of_base(path: Path, weights: Any) -> int:
    """Return the size in bytes of the base weights that a checkpoint names: a local file or published weights."""
    if not isinstance(weights, str) or len(weights) > _MAX_PATH or "://" in weights or weights[:2] in ("//", "\\\\"):
        raise ValueError(f"{path} is damaged: it holds an update of weights that it does not name.")
    try:
        return os.stat(weights).st_size
    except (OSError, ValueError):  # the name of published weights, or a file that was moved
        return _LARGEST_PUBLISHED


def _require_texts(path: Path, what: str, values: list[Any]) -> None:
    if any(not isinstance(value, str) or len(value) > _MAX_NAME for value in values):
        raise ValueError(f"{path} is damaged: {what} must be text of up to {_MAX_NAME} characters.")


def _field(path: Path, content: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = content.get(name, default)
    if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValueError(f"{path} is damaged: its field `{name}` is a {type(value).__name__}, not a {kind.__name__}.")
    return value


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RefusedFileError):
        return str(error)
    refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if zipfile.is_zipfile(path) else None
    return f"it holds Python objects ({refused[1]}), which could run code when loaded" if refused else _UNREADABLE
