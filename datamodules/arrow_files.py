"""Reading of folders that `save_to_disk` of Hugging Face `datasets` writes, by pyarrow alone.

Such a folder holds `dataset_info.json` (types of the columns), `state.json` (names of the Arrow files) and Arrow
streams. Nothing in it is executed, and no other package is needed.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.stored_file import fingerprint, open_regular
from lit_cv.printable import printable

__all__ = ["ArrowFiles", "SavedSet", "read_json", "require_pyarrow"]

_END = b"\xff\xff\xff\xff\0\0\0\0"  # end mark of an Arrow stream
_MAX_JSON = 1 << 28  # bytes, enough for a million class names
_LISTS = ("Sequence", "List", "LargeList")  # types of columns
_AGAIN = "save it again by save_to_disk of `datasets`"


def require_pyarrow() -> Any:
    """Return the package pyarrow.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            'HFDatasetDataModule needs pyarrow, which is not installed: pip install "lit_cv[datasets]"'
        ) from error
    return pyarrow


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is too large, or not a JSON object.
    """
    shown = printable(str(path), lines=False)
    with open_regular(path.resolve()) as file:
        if os.fstat(file.fileno()).st_size > _MAX_JSON:
            raise ValueError(f"{shown} has more than {_MAX_JSON:,} bytes: {_AGAIN}.")
        try:
            content = json.loads(file.read(_MAX_JSON))
        except (ValueError, RecursionError) as error:
            reason = printable(str(error), lines=False)[:200]
            raise ValueError(f"{shown} is not valid JSON ({reason}): {_AGAIN}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{shown} is no JSON object: {_AGAIN}.")
    return content


@dataclass(frozen=True, eq=False)
class SavedSet:
    """A folder written by `Dataset.save_to_disk`.

    Attributes:
        folder: The folder.
        features: Type of each column, as in `dataset_info.json`.
        files: Names of the Arrow files in it.
        split: Split that the set was loaded as, such as `train`; empty if unknown.
    """

    folder: Path
    features: dict[str, dict[str, Any]]
    files: list[str]
    split: str

    @classmethod
    def read(cls, folder: Path) -> "SavedSet":
        """Read the description of a folder.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is broken.
        """
        state, info = (read_json(folder / name) for name in ("state.json", "dataset_info.json"))
        shown = printable(str(folder), lines=False)
        entries, features = state.get("_data_files"), info.get("features")
        named = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or ()]
        files = [name for name in named if isinstance(name, str)]
        if not files or len(files) < len(named) or state.get("_indices_data_files"):
            raise ValueError(f"{shown}/state.json names no Arrow files, or is of an old version: {_AGAIN}.")
        if outside := [name for name in files if name != os.path.basename(name) or name in ("", ".", "..")]:
            raise ValueError(f"{shown}/state.json names a file outside its folder: {printable(outside[0])!r}.")
        if not isinstance(features, dict) or not features:
            raise ValueError(f"{shown}/dataset_info.json describes no columns: {_AGAIN}.")
        columns = {name: _described(kind) for name, kind in features.items()}
        return cls(folder, columns, files, str(state.get("_split") or ""))

    def columns_of(self, kind: str) -> list[str]:
        """Return the columns of a type, such as `Image`; for `ClassLabel` also those of lists of it."""
        return [
            name
            for name, feature in self.features.items()
            if (self.label_type(name)[0] if kind == "ClassLabel" else feature).get("_type") == kind
        ]

    def label_type(self, column: str) -> tuple[dict[str, Any], bool]:
        """Return the type of the labels in a column, and whether its rows hold lists of them."""
        feature = self.features[column]
        inner = feature.get("feature")
        is_list = feature.get("_type") in _LISTS and isinstance(inner, dict)
        return (inner, True) if is_list and isinstance(inner, dict) else (feature, False)


def _described(kind: Any) -> dict[str, Any]:
    """Return the type of a column as an object; old versions of `datasets` write a list as `[TYPE]`."""
    if isinstance(kind, dict):
        return kind
    return {"_type": "Sequence", "feature": kind[0] if isinstance(kind, list) and kind else None}


class ArrowFiles:
    """A column of images in Arrow files, mapped into memory by each process that reads them.

    Args:
        root: Folder that the files are relative to.
        files: The files.
        column: Name of the column: structs of `bytes` and `path`, bytes, or paths.

    Attributes:
        states: Size and modification time of each file when it was first read, (files, 2).
        starts: First row of each file, and the end, (files + 1,).
    """

    def __init__(self, root: Path, files: Sequence[str], column: str) -> None:
        self.root, self.files, self.column = root, list(files), column
        self.states: list[list[int]] = [fingerprint(root, file)[1:] for file in self.files]
        self._mapped: dict[int, tuple[NDArray[np.int64], list[Any]]] = {}
        lengths = [int(self._chunks(number)[0][-1]) for number in range(len(self.files))]
        self.starts: NDArray[np.int64] = np.cumsum([0, *lengths], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}  # a worker process maps the files itself

    def table(self, number: int) -> Any:
        """Return the content of a file, mapped into memory.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is truncated or broken.
            OSError: If it has changed since it was first read.
        """
        pyarrow = require_pyarrow()
        path = (self.root / self.files[number]).resolve()
        shown = printable(str(path), lines=False)
        self.require_unchanged(number)
        with open_regular(path) as file:
            file.seek(max(0, self.states[number][0] - len(_END)))
            if file.read(len(_END)) != _END:
                raise ValueError(f"{shown} is truncated or no Arrow file: {_AGAIN}, or copy it again.")
        try:
            with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
                return stream.read_all()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise self._broken(number, error) from None

    def values(self, column: str) -> list[Any]:
        """Return the values of another column, such as the labels."""
        return [value for number in range(len(self.files)) for value in self._column(number, column).to_pylist()]

    def image(self, row: int) -> tuple[Any, str | None]:
        """Return the content of the image of a row as a buffer, `None` if it is not stored, and its path or `None`."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        self.require_unchanged(number)
        ends, chunks = self._chunks(number)
        position = row - int(self.starts[number])
        chunk = int(np.searchsorted(ends, position, side="right")) - 1
        content, path = (None if part is None else part[position - int(ends[chunk])] for part in chunks[chunk])
        buffer = None if content is None or not content.is_valid else content.as_buffer()
        return buffer, None if path is None or not path.is_valid else path.as_py()

    def paths(self) -> list[str]:
        """Return the paths of the images that are not stored in the Arrow files."""
        found = []
        for number in range(len(self.files)):
            for content, path in self._chunks(number)[1]:
                if path is not None and (content is None or content.null_count):
                    missing = [True] * len(path) if content is None else content.is_null().to_pylist()
                    found += [name for name, is_missing in zip(path.to_pylist(), missing, strict=True) if is_missing]
        return sorted({name for name in found if name is not None})

    def require_unchanged(self, number: int) -> None:
        """Raise an error if a file has changed since it was first read."""
        if fingerprint(self.root, self.files[number])[1:] == self.states[number] and self.states[number][0] >= 0:
            return
        path = self.root / self.files[number]
        shown = printable(str(path), lines=False)
        if not path.exists():
            raise FileNotFoundError(f"{shown} not found, which state.json names: {_AGAIN}, or copy it again.")
        raise OSError(f"{shown} has changed since the start of the run: start it again.")

    def _column(self, number: int, name: str) -> Any:
        pyarrow = require_pyarrow()
        table = self.table(number)
        try:
            if name in table.column_names:
                column = table.column(name)
                column.validate(full=True)  # positions in a broken file may point anywhere
                return column
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise self._broken(number, error) from None
        shown = printable(str(self.root / self.files[number]), lines=False)
        raise ValueError(f"{shown} lacks the column {name!r}, which dataset_info.json names: {_AGAIN}.")

    def _broken(self, number: int, error: Exception) -> ValueError:
        shown = printable(str(self.root / self.files[number]), lines=False)
        reason = printable(str(error), lines=False)[:200]
        return ValueError(f"{shown} is broken ({reason}): {_AGAIN}, or copy it again.")

    def _chunks(self, number: int) -> tuple[NDArray[np.int64], list[Any]]:
        """Return the first row of each chunk of a file, and its arrays of contents and of paths, `None` if missing."""
        if number not in self._mapped:
            column = self._column(number, self.column)
            try:
                parts = [self._parts(chunk) for chunk in column.chunks]
            except UnicodeDecodeError as error:  # in the name of a field
                raise self._broken(number, error) from None
            ends = np.cumsum([0, *(len(chunk) for chunk in column.chunks)], dtype=np.int64)
            self._mapped[number] = ends, parts
        return self._mapped[number]

    def _parts(self, chunk: Any) -> tuple[Any, Any]:
        types = require_pyarrow().types
        if types.is_struct(chunk.type):
            names = [field.name for field in chunk.type]
            content, path = (
                chunk.flatten()[names.index(name)] if name in names else None for name in ("bytes", "path")
            )
        elif types.is_string(chunk.type) or types.is_large_string(chunk.type):
            content, path = None, chunk
        else:
            content, path = chunk, None
        is_binary = content is None or types.is_binary(content.type) or types.is_large_binary(content.type)
        is_text = path is None or types.is_string(path.type) or types.is_large_string(path.type)
        if not is_binary or not is_text or (content is None and path is None):
            raise ValueError(
                f"the column {self.column!r} in {printable(str(self.root), lines=False)} holds {chunk.type}, which are "
                "no images: these are structs of bytes and path, bytes, or paths."
            )
        return content, path
