"""Outputs of `predict_step`, grouped by task and kind."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["describe_outputs", "parts_by_task"]

_COMPANIONS: dict[str, dict[str, tuple[str, ...]]] = {  # names, with aliases, of what comes with each kind
    "probabilities": {},
    "boxes": {"box_labels": ("box_labels", "labels"), "scores": ("scores",)},
    "masks": {"confidence": ("confidence",)},
    "embedding": {},
    "values": {},
}


def parts_by_task(outputs: Any) -> dict[str, dict[str, Any]]:
    """Return the outputs by task, the prefix of names such as `TASK_probabilities`; "" without a prefix.

    `masks` is a tensor, the classes of pixels. A list of masks belongs to the boxes and becomes `object_masks`.
    """
    if not isinstance(outputs, Mapping):
        return {}
    by_task: dict[str, dict[str, Any]] = {}
    for key, value in outputs.items():
        for kind, companions in _COMPANIONS.items():
            task = str(key).removesuffix(kind)
            fits = isinstance(value, list | tuple) if kind == "boxes" else isinstance(value, Tensor)
            if task == key or (task and not task.endswith("_")) or not fits:
                continue
            parts = {kind: value}
            parts |= {
                n: outputs[task + alias]
                for n, names in companions.items()
                for alias in names
                if task + alias in outputs
            }
            if kind != "boxes" or len(parts) == 3:
                if kind == "boxes" and isinstance(masks := outputs.get(f"{task}masks"), list | tuple):
                    parts["object_masks"] = masks
                by_task.setdefault(task.removesuffix("_"), {}).update(parts)
    return by_task


def describe_outputs(outputs: Any) -> str:
    """Describe the outputs of a `predict_step` for a message."""
    return f"a dict with {sorted(outputs)}" if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"
