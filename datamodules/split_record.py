"""Record of the split of each image in a checkpoint, so that splits stay fixed when files are added."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_cv.checkpoint_file import load_tensors

__all__ = ["HIDDEN", "SPLIT_CODES", "UNKNOWN", "SplitRecord", "record_in_checkpoint", "state_in_checkpoint"]

SPLIT_CODES = {"train": 0, "val": 1, "test": 2}
HIDDEN = 3  # training image with hidden label
UNKNOWN = 255

Codes = NDArray[np.uint8]


class SplitRecord:
    """The split of each image, in 9 bytes per image: a hash of its name and a number.

    Args:
        keys: Hashes of the names, (N,) uint64, ascending.
        codes: Split of each image, see `SPLIT_CODES`.
        options: Options that the splits depend on.
    """

    def __init__(self, keys: NDArray[np.uint64], codes: Codes, options: Mapping[str, Any]) -> None:
        self.keys, self.codes, self.options = keys, codes, dict(options)

    @classmethod
    def of(cls, parts: Iterable[tuple[Sequence[str], Codes]], options: Mapping[str, Any]) -> "SplitRecord":
        """Create a record from names and splits; if a name is in several splits, the first is kept.

        Example:
            >>> record = SplitRecord.of([(["a.png", "b.png"], np.array([0, 1], np.uint8))], {})
            >>> record.look_up(["b.png", "c.png"]).tolist()
            [1, 255]
        """
        named = [(_keys(names), codes) for names, codes in parts]
        keys = np.concatenate([np.empty(0, np.uint64), *(part for part, _ in named)])
        codes = np.concatenate([np.empty(0, np.uint8), *(part for _, part in named)])
        keys, first = np.unique(keys, return_index=True)
        return cls(keys, codes[first], options)

    def look_up(self, names: Sequence[str]) -> Codes:
        """Return the split of each name, `UNKNOWN` if it is not in the record."""
        if not len(self.keys):
            return np.full(len(names), UNKNOWN, np.uint8)
        keys = _keys(names)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[positions] == keys, self.codes[positions], UNKNOWN).astype(np.uint8)

    def state_dict(self) -> dict[str, Any]:
        """Return the record as tensors and plain values."""
        keys = torch.from_numpy(self.keys.view(np.int64).copy())
        return {"keys": keys, "splits": torch.from_numpy(self.codes.copy()), "options": self.options}

    @classmethod
    def from_state(cls, state: object) -> "SplitRecord | None":
        """Restore a record from `state_dict`; return `None` for anything else."""
        if not isinstance(state, Mapping):
            return None
        keys, codes, options = (state.get(name) for name in ("keys", "splits", "options"))
        if not isinstance(keys, torch.Tensor) or not isinstance(codes, torch.Tensor) or not isinstance(options, dict):
            return None
        if keys.dtype != torch.int64 or codes.dtype != torch.uint8 or keys.ndim != 1 or keys.shape != codes.shape:
            return None
        numbers = keys.cpu().numpy().copy().view(np.uint64)
        order = np.argsort(numbers, kind="stable")
        return cls(numbers[order], codes.cpu().numpy().copy()[order], options)


def state_in_checkpoint(path: str | Path | None, name: str) -> Mapping[str, Any]:
    """Return the state of a DataModule class in a checkpoint; empty if there is none or it cannot be read.

    Args:
        path: The checkpoint, or `None`.
        name: Qualified name of the class.
    """
    state = _content(path).get(name)
    return state if isinstance(state, Mapping) else {}


def record_in_checkpoint(path: str | Path | None, name: str, root: str | None = None) -> SplitRecord | None:
    """Return the splits of a DataModule class in a checkpoint, or else those of another class.

    For evaluation, the same images may be listed in another way: in a table instead of folders, or without a second
    domain.

    Args:
        path: The checkpoint, or `None`.
        name: Qualified name of the class.
        root: Folder of the images, to choose among several DataModules in the checkpoint.
    """
    content = _content(path)
    states = [state for state in (content.get(name), *content.values()) if isinstance(state, Mapping)]
    domains = [state.get(domain) for state in states for domain in ("source", "target")]
    records = [_record(state) for state in states]
    same_root = [
        record for record in [*records, *map(_record, domains)] if record and record.options.get("root") == root
    ]
    of_class = records[0] if isinstance(content.get(name), Mapping) else None
    return of_class or next((record for record in [*(same_root if root else []), *records] if record), None)


def _record(state: object) -> SplitRecord | None:
    return SplitRecord.from_state(state.get("splits")) if isinstance(state, Mapping) else None


def _content(path: str | Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        content = load_tensors(Path(path))
    except Exception:  # any error for other kinds of files; the Trainer reports it
        return {}
    return content if isinstance(content, Mapping) else {}


def _keys(names: Sequence[str]) -> NDArray[np.uint64]:
    """Return a hash of each name in Unicode normal form NFC."""
    texts = (unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass") for name in names)
    joined = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)
