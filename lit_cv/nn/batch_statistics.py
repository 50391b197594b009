"""Control over the statistics that BatchNorm normalizes by and tracks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import argument

__all__ = ["batch_norms", "batch_statistics", "untracked_statistics"]

_Norm = nn.modules.batchnorm._BatchNorm


def batch_norms(network: nn.Module) -> list[_Norm]:
    """Return the BatchNorm layers of a network, including those of subclasses."""
    return [module for module in network.modules() if isinstance(module, _Norm)]


@contextmanager
def untracked_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every BatchNorm unchanged by training within the context.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> with untracked_statistics(norm):
        ...     norm(torch.tensor([[0.0], [2.0]])).flatten().round().tolist()
        [-1.0, 1.0]
        >>> norm.running_mean
        tensor([0.])
    """
    tracking = [norm for norm in batch_norms(network) if norm.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


@contextmanager
def batch_statistics(network: nn.Module, first: int | None = None, track: bool = False) -> Iterator[None]:
    """Make every BatchNorm normalize by the statistics of its input, in both training and evaluation mode.

    The running statistics are not read and, unless `track` is set, not changed. The network can therefore be
    transformed by `torch.func`.

    Args:
        network: The network with the BatchNorm layers.
        first: Number of leading samples whose statistics normalize all samples; `None` uses all samples.
        track: Whether to update the running statistics as in training.

    Raises:
        ValueError: If a BatchNorm layer does anything else than to normalize, and possibly to apply an activation as
            timm's layers.

    Example:
        >>> norm = nn.BatchNorm1d(1).eval()
        >>> x = torch.tensor([[0.0], [2.0], [4.0]])
        >>> with batch_statistics(norm, first=2):
        ...     norm(x).flatten().round().tolist()
        [-1.0, 1.0, 3.0]
        >>> norm.running_mean
        tensor([0.])
    """
    norms = batch_norms(network)
    forwards = [_forward(norm, _activation(norm), first, track) for norm in norms]
    for norm, forward in zip(norms, forwards, strict=True):
        norm.forward = forward  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _activation(norm: Any) -> Callable[[Tensor], Tensor] | None:
    """Return what a layer of timm applies after it normalizes, `None` for torch's layers."""
    forward = type(norm).forward
    if forward in (_Norm.forward, nn.SyncBatchNorm.forward):
        return None
    timm: Any = sys.modules.get("timm.layers.norm_act")
    if timm is not None and forward in (timm.BatchNormAct2d.forward, timm.SyncBatchNormAct.forward):
        return nn.Sequential(norm.drop, norm.act)
    raise ValueError(
        f"{type(norm).__name__} in the network cannot use the statistics of a task: its forward is neither torch's "
        f"BatchNorm nor timm's BatchNormAct2d. Choose another {argument('backbone')}."
    )


def _forward(
    norm: _Norm, activation: Callable[[Tensor], Tensor] | None, first: int | None, track: bool
) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if track and norm.running_mean is not None:
            _update_running_statistics(norm, x if first is None else x[:first])
        y = _normalize(norm, x, first)
        return y if activation is None else activation(y)

    return forward


def _normalize(norm: _Norm, x: Tensor, first: int | None) -> Tensor:
    if first is None:
        return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    # F.batch_norm would treat the given statistics as constants, without a gradient.
    axes = [axis for axis in range(x.ndim) if axis != 1]
    reference = x[:first].float() if x.dtype in (torch.bfloat16, torch.float16) else x[:first]
    variance, mean = torch.var_mean(reference, axes, correction=0, keepdim=True)
    scale, shift = torch.rsqrt(variance + norm.eps), -mean
    if norm.weight is None:
        return ((x + shift) * scale).to(x.dtype)
    shape = mean.shape
    return ((x + shift) * (scale * norm.weight.view(shape)) + norm.bias.view(shape)).to(x.dtype)


@torch.no_grad()
def _update_running_statistics(norm: _Norm, x: Tensor) -> None:
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked or 1) if norm.momentum is None else norm.momentum
    F.batch_norm(x.detach(), norm.running_mean, norm.running_var, training=True, momentum=momentum, eps=norm.eps)
