"""Time and memory of functions on the device."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu_parts.setting import Setting

__all__ = ["Cost", "cost", "peak_memory", "random_images", "reset_peak_memory", "synchronize"]


class Cost(NamedTuple):
    """Seconds of one call, and the MiB that it needs in addition to what existed before; None if unknown."""

    seconds: float
    mebibytes: float | None


def cost(function: Callable[[], Any], setting: Setting, rounds: int) -> Cost:
    """Call a function some times after a first call, and return the least time and the peak memory."""
    function()
    synchronize(setting)
    before = reset_peak_memory(setting)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        synchronize(setting)
        seconds.append(time.perf_counter() - start)
    peak = peak_memory(setting)
    return Cost(min(seconds), None if before is None or peak is None else (peak - before) / 2**20)


def synchronize(setting: Setting) -> None:
    """Wait for the device."""
    if setting.device == "cuda":
        torch.cuda.synchronize()


def reset_peak_memory(setting: Setting) -> int | None:
    """Start a new peak, and return the memory in use in bytes."""
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    return None


def peak_memory(setting: Setting) -> int | None:
    """Return the peak since `reset_peak_memory`, in bytes: of the device, or resident memory on a CPU."""
    if setting.device == "cuda":
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        return _resident("VmHWM")
    return None


def random_images(n: int, side: int, setting: Setting) -> Tensor:
    """Return smooth random images with some noise, (n, 3, side, side) uint8, on the device."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noisy = smooth + 0.05 * torch.randn(n, 1, side, side, generator=generator)
    return (noisy.clamp(0, 1) * 255).to(torch.uint8).to(setting.device)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))
