"""Validation of an optimizer state restored from a checkpoint. Pure torch."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lit_cv.distributed import is_distributed

__all__ = ["require_valid_state"]


def require_valid_state(optimizer: Optimizer) -> None:
    """Raise ValueError for a restored state that would make the next step fail or compute wrong values.

    Args:
        optimizer: The optimizer. Shapes are compared only with a single rank, because ranks may hold shards.

    Raises:
        ValueError: If an option has another type than its default, a value of the state is neither a number nor a
            tensor, or a tensor has neither one number nor the shape of its parameter.
    """
    for group in optimizer.param_groups:
        for name, default in optimizer.defaults.items():
            if not _alike(group.get(name, default), default):
                raise _damaged(f"its optimizer has {name}={str(group[name])[:40]!r}")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items() if isinstance(state, dict) else [("state", None)]:
                if isinstance(value, Tensor):
                    if value.numel() != 1 and value.shape != parameter.shape and not is_distributed():
                        raise _damaged(f"{name} of its optimizer has the shape {tuple(value.shape)}")
                elif not isinstance(value, int | float):
                    raise _damaged(f"{name} of its optimizer is a {type(value).__name__}")


def _alike(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or default is None:
        return value is None or isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float | Tensor)
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(default) and all(map(_alike, value, default))
    return True


def _damaged(what: str) -> ValueError:
    return ValueError(f"the checkpoint is damaged: {what}.")
