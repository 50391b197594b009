"""Checks of supported image sizes on the meta device, without computing anything."""

import torch
from torch import nn

from lit_cv.errors import argument

__all__ = ["run_on_meta", "size_error"]


def run_on_meta(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the output shape of `module` for a float input of `shape`; nothing is computed or changed.

    Raises:
        RuntimeError, ValueError, IndexError: The error of the module if it does not support this shape.
    """
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    meta = {key: torch.empty_like(value, device="meta") for key, value in state.items()}
    training = {m: m.training for m in module.modules()}
    module.eval()  # in training mode, BatchNorm rejects a single image
    try:
        with torch.no_grad():
            out = torch.func.functional_call(module, meta, (torch.empty(shape, device="meta"),))
    finally:
        for m, mode in training.items():
            m.training = mode
    return tuple(out.shape)


def size_error(name: str, image_size: tuple[int, int], reason: Exception) -> ValueError:
    """Return the error for a network that does not support images of this height and width."""
    height, width = image_size
    first_line = str(reason).partition("\n")[0]
    return ValueError(
        f"{name} does not support images of {height}x{width} pixels ({argument('image_size')}): {first_line}"
    )
