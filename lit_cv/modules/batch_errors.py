"""Explanations of errors that a step raises because of its batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_cv.nn import Backbone
from lit_cv.nn.sizes import run_on_meta

__all__ = ["explain_batch", "explain_local_size"]

_NEARBY = 16  # pixels, the largest common patch size: maximum distance of a size that an error proposes
_UINT8 = "uint8 or float in [0, 1]"
_ENTRIES: dict[str, str] = {
    "image": _UINT8, "views": _UINT8, "local_views": _UINT8, "strong": _UINT8,
    "label": "int64 classes or float shares of classes",
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


def explain_local_size(backbone: object, batch: object) -> str | None:
    """Return one line on local views that a backbone does not support, `None` if they did not cause an error.

    Args:
        backbone: The backbone of the module.
        batch: The batch of which a step raised an error.

    Example:
        >>> from lit_cv.nn import create_backbone
        >>> batch = {"views": torch.zeros(2, 4, 3, 32, 32), "local_views": torch.zeros(6, 4, 3, 14, 14)}
        >>> explain_local_size(create_backbone("vit_micro_p4", image_size=32), batch)
        'vit_micro_p4 supports local views of 16x16 pixels, not 14x14: change `local_size` of ContrastiveAugmentation.'
    """
    if not isinstance(batch, Mapping) or not isinstance(backbone, Backbone):
        return None
    views, local = batch.get("views"), batch.get("local_views")
    if not isinstance(views, Tensor) or not isinstance(local, Tensor) or views.ndim != 5 or local.ndim != 5:
        return None
    height, width = local.shape[3:]
    if _supports(backbone, (height, width)) or not _supports(backbone, tuple(views.shape[3:])):
        return None
    distances = sorted(range(-_NEARBY, _NEARBY + 1), key=lambda distance: (abs(distance), -distance))
    sides = [min(height, width) + distance for distance in distances]
    allowed = next((side for side in sides if side > 0 and _supports(backbone, (side, side))), None)
    if allowed is None:
        return (
            f"{backbone.name} does not support local views of {height}x{width} pixels, nor of a similar size: set "
            "`local_views` of ContrastiveAugmentation to 0, or change the backbone."
        )
    return (
        f"{backbone.name} supports local views of {allowed}x{allowed} pixels, not {height}x{width}: change "
        "`local_size` of ContrastiveAugmentation."
    )


def _supports(backbone: Backbone, size: tuple[int, ...]) -> bool:
    try:
        run_on_meta(backbone, (1, backbone.in_channels, *size))
    except Exception:  # a network may raise anything
        return False
    return True


def _listed(batch: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({_listed(value)})" if isinstance(value, Mapping) else name for name, value in batch.items()
    )


def _fits(name: str, value: Tensor) -> bool:
    kind = _ENTRIES[name]
    if value.dtype == torch.uint8:
        return kind == _UINT8
    return ("float" in kind and value.is_floating_point()) or ("int64" in kind and value.dtype == torch.int64)
