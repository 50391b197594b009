"""What a checkpoint file says, checked before anything is made of it. Pure torch."""

import os
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_cv.plain_values import require_plain

__all__ = ["CheckpointFile", "load_tensors", "read_checkpoint"]

_KINDS = "it is a file of another kind, or cut short"
_GONE = frozenset({"_instantiator", "_class_path"})  # of Lightning's CLI: they name code to call


@dataclass(frozen=True)
class CheckpointFile:
    """The fields of a checkpoint that this project reads, of the types that they must have.

    Attributes:
        path: The file.
        size: Bytes of the file.
        class_path: Import path of the module that it holds, `None` if another program wrote it. It is text of a file:
            `lit_cv.registry.resolve_class` says whether it may become a class.
        hyper_parameters: Constructor arguments of that module, plain values; `weights` is `None`, for the checkpoint
            has its own.
        step: Optimizer steps taken when it was written.
        class_names: Names of the classes.
        state_dict: The weights.
    """

    path: Path
    size: int
    class_path: str | None
    hyper_parameters: dict[str, Any]
    step: int
    class_names: list[str]
    state_dict: Mapping[str, Tensor] = field(repr=False)


def load_tensors(path: Path) -> Any:
    """Load a file of `torch.save` that holds tensors and plain values, mapped where it can be.

    Args:
        path: The file.

    Raises:
        ValueError: If it would run code, or its records are compressed: they may unpack to any size.
        Exception: What `torch.load` raises for a file that is none.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no plain file")
    archive = zipfile.is_zipfile(path)
    if archive:
        with zipfile.ZipFile(path) as content:
            records = content.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("its records are compressed, which torch.save does not do")
        if sum(record.file_size for record in records) > os.stat(path).st_size:
            raise ValueError("its records are longer than the file")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)


def read_checkpoint(path: Path) -> CheckpointFile:
    """Read a checkpoint of a Trainer, and check the types of its fields.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, holds Python objects, or a field is not what it must be.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}.")
    try:
        content = load_tensors(path)
    except Exception as error:  # torch raises all kinds of errors for files of other kinds
        raise ValueError(f"{path} is not a whole checkpoint of lit_cv: {_reason(path, error)}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ValueError(f"{path} is not a checkpoint of a Trainer: it has no state_dict.")
    wrong = [str(key) for key, value in content["state_dict"].items() if not isinstance(value, Tensor)]
    if wrong:
        raise ValueError(f"{path} is damaged: {wrong[0]} of its state_dict is no tensor.")
    own = _field(path, content, "lit_cv", dict, {})
    given = _field(path, content, "hyper_parameters", Mapping, {})
    require_plain(own, f"{path}: lit_cv", leaves=Tensor)
    require_plain(dict(given), f"{path}: hyper_parameters")
    parameters = {str(name): value for name, value in given.items() if name not in _GONE}
    if "weights" in parameters:
        parameters["weights"] = None
    names = _field(path, own, "class_names", list, [])
    return CheckpointFile(
        path=path,
        size=path.stat().st_size,
        class_path=_field(path, own, "class_path", str, None),
        hyper_parameters=parameters,
        step=_field(path, content, "global_step", int, 0),
        class_names=[str(name) for name in names],
        state_dict=content["state_dict"],
    )


def _field(path: Path, content: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = content.get(name, default)
    if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValueError(f"{path} is damaged: its field {name} is a {type(value).__name__}, not a {kind.__name__}.")
    return value


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error) is ValueError and str(error).startswith("it"):
        return str(error)
    refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if zipfile.is_zipfile(path) else None
    return f"it holds Python objects ({refused[1]}), which could run code when loaded" if refused else _KINDS
