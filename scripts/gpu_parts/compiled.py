"""Recipes with torch.compile."""

import functools
import math
from typing import Any

import torch

from gpu_parts import recipes
from gpu_parts.setting import Setting, require

__all__ = ["items", "run"]


def items(setting: Setting) -> dict[str, list[str]]:
    """Return the recipes."""
    return {"items": ["supervised"] if setting.tiny else ["supervised", "simclr", "mae"]}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Train a recipe with compiled networks; tiny ones skip the generation of code."""
    compiled = torch.nn.Module.compile
    if setting.tiny:
        torch.nn.Module.compile = functools.partialmethod(compiled, backend="eager")  # type: ignore[assignment]
    try:
        recipes.fit_recipe(item, setting, {"model.compile": "true", "trainer.precision": "bf16-mixed"})
    finally:
        torch.nn.Module.compile = compiled  # type: ignore[method-assign]
    losses = [float(loss) for loss in recipes.StepLosses.losses]
    require(bool(losses) and all(map(math.isfinite, losses)), f"the losses are {losses}")
    return {"steps": len(losses), "loss": round(losses[-1], 4)}
