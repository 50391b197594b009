"""Time and memory of NT-Xent forward and backward, and of the plain formula where it fits."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu_parts.measuring import cost
from gpu_parts.setting import Setting, require
from lit_cv.losses import NTXentLoss

__all__ = ["items", "run"]

DIM, TEMPERATURE, STRIP = 128, 0.5, 4096
TOLERANCE = 1e-3  # relative to the largest gradient


def items(setting: Setting) -> dict[str, list[str]]:
    """Return the numbers of pairs of views."""
    sizes = (256,) if setting.tiny else (1024, 8192, 65536) if setting.device == "cuda" else (1024, 4096)
    return {"items": [f"N = {size}" for size in sizes]}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Measure both, and compare the gradients."""
    n = int(item.removeprefix("N = "))
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, n, DIM, generator=generator).to(setting.device).requires_grad_()
    variants: dict[str, Callable[[Tensor], Tensor]] = {
        "lit_cv": NTXentLoss(TEMPERATURE),
        f"strips of {STRIP}": NTXentLoss(TEMPERATURE, chunk_size=STRIP),
        "plain": _plain,
    }
    values: dict[str, Any] = {}
    gradients: dict[str, Tensor] = {}
    for name, loss in variants.items():
        try:
            measured = cost(lambda loss=loss: _gradient(loss, views), setting, rounds=3 if n < 50_000 else 1)  # type: ignore[misc]
            gradients[name] = _gradient(loss, views)
        except torch.OutOfMemoryError:
            values[name] = "out of memory"
            torch.cuda.empty_cache()
            continue
        memory = "" if measured.mebibytes is None else f" and {measured.mebibytes:.0f} MiB"
        values[name] = f"{measured.seconds * 1e3:.2f} ms{memory}"
    expected = gradients["plain" if "plain" in gradients else "lit_cv"]
    errors = [float((each - expected).abs().max() / expected.abs().max()) for each in gradients.values()]
    require(max(errors) < TOLERANCE, f"the gradients differ by {max(errors):.1e} of the largest")
    return {**values, "gradient_error": f"{max(errors):.1e}"}


def _gradient(loss: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
    return torch.autograd.grad(loss(views), views)[0]


def _plain(views: Tensor) -> Tensor:
    n = views.shape[1]
    z = F.normalize(views.flatten(0, 1), dim=1)
    similarity = (z @ z.T / TEMPERATURE).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(similarity, torch.arange(2 * n, device=z.device).roll(n))
