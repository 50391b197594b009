"""Explanations of errors that a step raises because of its batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["explain_batch"]

_UINT8 = "uint8 or float in [0, 1]"
_ENTRIES: dict[str, str] = {
    "image": _UINT8, "views": _UINT8, "strong": _UINT8, "label": "int64 classes or float shares of classes",
    "mask": "int64", "boxes": "float", "box_labels": "int64", "index": "int64", "classes": "int64",
}  # fmt: skip
"""Expected contents of the entries that batches share, by name."""


def explain_batch(owner: str, batch: object, error: Exception) -> str | None:
    """Return one line on what the batch lacks for a step, `None` if that did not cause the error.

    Args:
        owner: Class name of the module.
        batch: The batch.
        error: The error that the step raised.

    Example:
        >>> explain_batch("SupervisedModule", {"label": torch.tensor([1])}, KeyError("image"))
        'SupervisedModule needs batches with `image`, but this one has label.'
    """
    if not isinstance(batch, Mapping):
        return (
            f"{owner} needs batches that are dicts, such as {{'image': ..., 'label': ...}}, but this one is a "
            f"{type(batch).__name__}: return dicts from the DataModule."
        )
    parts = [value for value in batch.values() if isinstance(value, Mapping)]
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(key, str) and key not in batch and any(key not in part for part in parts or [batch]):
        return f"{owner} needs batches with `{key}`, but this one has {_listed(batch) or 'nothing'}."
    for name, value in [pair for part in (batch, *parts) for pair in part.items()]:
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, Tensor) and name in _ENTRIES and not _fits(name, first):
            return f"{owner} needs `{name}` of {_ENTRIES[name]}, but this batch has {first.dtype}."
    return None


def _listed(batch: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({_listed(value)})" if isinstance(value, Mapping) else name for name, value in batch.items()
    )


def _fits(name: str, value: Tensor) -> bool:
    kind = _ENTRIES[name]
    if value.dtype == torch.uint8:
        return kind == _UINT8
    return ("float" in kind and value.is_floating_point()) or ("int64" in kind and value.dtype == torch.int64)
