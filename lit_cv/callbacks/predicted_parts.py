"""What `predict_step` returns, by task and kind."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["describe_outputs", "parts_by_task"]

_ALSO: dict[str, dict[str, tuple[str, ...]]] = {  # what is predicted, and what comes with it by which names
    "probabilities": {},
    "boxes": {"box_labels": ("box_labels", "labels"), "scores": ("scores",)},
    "masks": {"confidence": ("confidence",)},
    "embedding": {},
    "values": {},
}


def parts_by_task(outputs: Any) -> dict[str, dict[str, Any]]:
    """Return what was predicted by the prefix of its names: `TASK_probabilities` and so on, "" without a prefix."""
    if not isinstance(outputs, Mapping):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for key, value in outputs.items():
        for kind, others in _ALSO.items():
            task = str(key).removesuffix(kind)
            fits = isinstance(value, list | tuple) if kind == "boxes" else isinstance(value, Tensor)
            if task == key or (task and not task.endswith("_")) or not fits:
                continue
            said = {kind: value}
            said |= {
                n: outputs[task + alias] for n, names in others.items() for alias in names if task + alias in outputs
            }
            if kind != "boxes" or len(said) == 3:
                found.setdefault(task.removesuffix("_"), {}).update(said)
    return found


def describe_outputs(outputs: Any) -> str:
    """Return in words what a `predict_step` returned."""
    return f"a dict with {sorted(outputs)}" if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"
