"""The device and the versions."""

import platform
from importlib import metadata
from typing import Any

import torch

import lit_cv
from gpu_parts.setting import Setting, require

__all__ = ["describe"]

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "triton", "timm", "kornia", "lightly")


def describe(setting: Setting) -> dict[str, Any]:
    """Return the device and the versions of the packages that are installed; fail without the device."""
    require(setting.device == "cpu" or torch.cuda.is_available(), "torch finds no GPU: set --device cpu or --tiny")
    described: dict[str, Any] = {
        "python": platform.python_version(),
        "lit_cv": lit_cv.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "threads": torch.get_num_threads(),
    }
    for name in _PACKAGES:
        try:
            described[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            described[name] = None
    if setting.device == "cuda":
        found = torch.cuda.get_device_properties(0)
        described |= {
            "device": found.name,
            "devices": torch.cuda.device_count(),
            "memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
        }
    return {"device": platform.processor() or platform.machine(), "devices": 0} | described
