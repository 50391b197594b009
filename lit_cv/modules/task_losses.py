"""From the losses of several tasks on a batch, parts of them on other processes, to scalars."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from lit_cv.losses import DynamicWeightAverage, FixedWeighting, TaskWeighting, UncertaintyWeighting
from lit_cv.tasks import BaseTask, TaskLoss

__all__ = ["add_totals", "build_weighting", "mean_losses", "step_losses"]

Counts = dict[str, list[float]]


def build_weighting(hparams: Mapping[str, Any], tasks: Mapping[str, BaseTask]) -> TaskWeighting:
    """Return the weighting that the hyperparameters of `MultiTaskModule` name.

    Raises:
        ValueError: If they do not fit.
    """
    kind, weights, names = hparams["weighting"], hparams["task_weights"], list(tasks)
    if (weights is not None) != (kind == "fixed"):
        raise ValueError(
            f"weighting={kind!r} with task_weights={weights}: `fixed` needs a weight for each task in task_weights, "
            "and no other weighting takes them."
        )
    if kind == "uncertainty":
        return UncertaintyWeighting(names, [name for name in names if tasks[name].likelihood == "classification"])
    if kind == "dwa":
        return DynamicWeightAverage(names, hparams["dwa_temperature"])
    return FixedWeighting(names, weights)


def step_losses(
    found: Mapping[str, TaskLoss], device: torch.device, across: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the loss of each task that has targets in the batch, and zeros that are part of the graph for the others.

    Args:
        found: What the tasks have found on this process.
        device: Device of the batch.
        across: Whether the batch is spread over several processes, whose gradients are averaged afterwards. The
            losses are then divided by the targets of all of them, so that the average is that of one whole batch.
    """
    counts = _counts(found)
    if across:
        counts = _totals(counts, device)
    losses = {name: _ratio(loss, counts[name]) for name, loss in found.items()}
    present = {name: loss for name, loss in losses.items() if counts[name][-1] > 0}
    return present, {name: loss for name, loss in losses.items() if name not in present}


def mean_losses(name: str, loss: TaskLoss) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the terms of a task's loss on this process by the names that they are logged under, and their counts."""
    divisors = {part: max(count, 1) if loss.images else 0 for part, (_, count) in loss.parts.items()}
    names = {part: _loss_name(name, part) for part in loss.parts}
    means = {names[part]: total.detach() / max(divisors[part], 1) for part, (total, _) in loss.parts.items()}
    return means, {names[part]: count for part, count in divisors.items()}


def add_totals(values: Mapping[str, Tensor], tasks: Mapping[str, BaseTask], prefix: str = "") -> dict[str, Tensor]:
    """Add the loss of each task that consists of several terms: the sum of their means.

    Args:
        values: Means over an epoch, by name.
        tasks: The tasks by name.
        prefix: What the names of the values start with.
    """
    totals = {}
    for name, task in tasks.items():
        terms = [values.get(prefix + _loss_name(name, part)) for part in task.parts]
        known = [term for term in terms if term is not None]
        if known:
            totals[f"{prefix}{name}_loss"] = torch.stack(known).sum()
    return {**values, **totals}


def _loss_name(name: str, part: str) -> str:
    return f"{name}_{part}_loss" if part else f"{name}_loss"


def _counts(found: Mapping[str, TaskLoss]) -> Counts:
    """Return for each task how much its parts are divided by, and last, its images with a target."""
    return {name: [*(count for _, count in loss.parts.values()), loss.images] for name, loss in found.items()}


def _totals(own: Counts, device: torch.device) -> Counts:
    """Return the same of all processes, the divisors by the number of processes, for gradients are averaged."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    flat = torch.tensor([value for values in own.values() for value in values], dtype=dtype, device=device)
    torch.distributed.all_reduce(flat)
    world, left = torch.distributed.get_world_size(), iter(flat.tolist())
    every = {name: [next(left) for _ in values] for name, values in own.items()}
    return {name: [*(max(count, 1) / world for count in values[:-1]), values[-1]] for name, values in every.items()}


def _ratio(loss: TaskLoss, counts: list[float]) -> Tensor:
    parts = zip(loss.parts.values(), counts[:-1], strict=True)
    return cast(Tensor, sum(total / (count or 1) for (total, _), count in parts))
