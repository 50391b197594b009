"""Checks of the network size in a checkpoint's hyperparameters against the file size, before memory is allocated."""

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

from lit_cv.checkpoint_file import INITIAL_WEIGHTS

if TYPE_CHECKING:
    from lit_cv.modules.base import BaseModule

__all__ = ["check_network_size", "limit_network_size"]

_MAX_RATIO = 4  # files may hold half precision, and networks buffers that files lack
_FREE_BYTES = 256 << 20  # allowed for any network
_MAX_MODULES = 100_000  # timm's largest networks have a few thousand


@contextmanager
def limit_network_size(size: int, source: str) -> Iterator[None]:
    """Raise an error in the block if networks get far larger than their file of weights, which then cannot be theirs.

    A tensor counts when a module registers it, before it is filled and thus before the system allocates its memory.

    Args:
        size: Size of the file in bytes.
        source: Name of the file, for the message.

    Raises:
        ValueError: If the networks are too large.
    """
    limit = _MAX_RATIO * size + _FREE_BYTES
    total, modules = 0, 0

    def count(module: nn.Module, name: str, value: Any) -> None:
        nonlocal total
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        if total > limit:
            raise ValueError(
                f"{source} has {size:,} bytes, but its hyperparameters describe a network of more than {limit:,}: "
                f"they do not fit its weights ({type(module).__name__}.{name})."
            )

    def count_module(module: nn.Module, name: str, child: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > _MAX_MODULES:
            raise ValueError(f"{source}: its hyperparameters describe a network of more than {modules - 1:,} modules.")

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


def check_network_size(cls: "type[BaseModule]", hyper_parameters: Mapping[str, Any], size: int, source: str) -> None:
    """Raise an error for hyperparameters of networks far larger than their file of weights, without allocating memory.

    The networks are built on the device `meta`. If that fails for another reason, nothing is raised.

    Args:
        cls: Class of the module.
        hyper_parameters: Its constructor arguments.
        size: Size of the file in bytes.
        source: Name of the file, for the message.

    Raises:
        ValueError: If the networks are too large.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), limit_network_size(size, source):
            cls(
                **{**hyper_parameters, **dict.fromkeys(hyper_parameters.keys() & set(INITIAL_WEIGHTS))}
            ).configure_model()
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(source):
            raise
