"""Hyperparameters of a checkpoint against the size of its file, before their networks take memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

if TYPE_CHECKING:
    from lit_cv.modules.base import BaseModule

__all__ = ["no_larger_than", "require_size"]

_TIMES = 4  # a file may hold half precision, and a network buffers that are not in it
_BESIDE = 256 << 20  # bytes that any network may take
_MOST_MODULES = 100_000  # the largest network of timm has some thousand


@contextmanager
def no_larger_than(size: int, source: str) -> Iterator[None]:
    """Refuse to build networks within that are far larger than a file of weights: the file cannot be theirs.

    A tensor is counted when a module takes it up, before it is filled with numbers; until then the system has given
    it no memory.

    Args:
        size: Bytes of the file.
        source: Its name, for the message.

    Raises:
        ValueError: If they are.
    """
    most = _TIMES * size + _BESIDE
    taken, modules = 0, 0

    def count(module: nn.Module, name: str, value: Any) -> None:
        nonlocal taken
        if isinstance(value, Tensor):
            taken += value.numel() * value.element_size()
        if taken > most:
            raise ValueError(
                f"{source} has {size:,} bytes, but its hyperparameters are those of a network of more than {most:,}: "
                f"they do not fit its weights ({type(module).__name__}.{name})."
            )

    def count_module(module: nn.Module, name: str, child: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > _MOST_MODULES:
            raise ValueError(
                f"{source}: its hyperparameters are those of a network of more than {modules - 1:,} parts."
            )

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
        register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError | OverflowError) or "alloc" in str(error):
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise ValueError(f"{source}: its hyperparameters do not fit its weights ({reason}).") from error
        raise
    finally:
        for hook in hooks:
            hook.remove()


def require_size(cls: "type[BaseModule]", hyper_parameters: Mapping[str, Any], size: int, source: str) -> None:
    """Refuse hyperparameters of networks that are far larger than a file of weights, before any memory is taken.

    The networks are built without their numbers, on the device `meta`. What cannot be built so is not judged here.

    Args:
        cls: The module.
        hyper_parameters: Its constructor arguments.
        size: Bytes of the file.
        source: Its name, for the message.

    Raises:
        ValueError: If they are.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), no_larger_than(size, source):
            cls(**{**hyper_parameters, **dict.fromkeys(hyper_parameters.keys() & {"weights"})}).configure_model()
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(source):
            raise
