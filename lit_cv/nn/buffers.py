"""Buffers with one entry for each image of a dataset. Pure torch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["resize_buffers"]


def resize_buffers(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *names: str) -> None:
    """Give buffers the length that they have in a state dict, before it is loaded.

    A module that is built without data does not know the number of images yet.

    Args:
        module: Owner of the buffers.
        state_dict: The state dict to be loaded.
        prefix: Prefix of the module's keys in it.
        names: Names of the buffers; their other dimensions stay.

    Example:
        >>> module = nn.Module()
        >>> module.register_buffer("classes", torch.zeros(0, dtype=torch.int64))
        >>> resize_buffers(module, {"part.classes": torch.arange(3)}, "part.", "classes")
        >>> module.classes.shape
        torch.Size([3])
    """
    for name in names:
        stored, buffer = state_dict.get(f"{prefix}{name}"), getattr(module, name)
        if isinstance(stored, torch.Tensor) and stored.shape[1:] == buffer.shape[1:] and stored.ndim:
            setattr(module, name, buffer.new_zeros(stored.shape))
