"""Loss terms of tasks: combination into one loss, and means over an epoch for logging."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lit_cv.errors import OptionError, argument
from lit_cv.losses import DynamicWeightAverage, FixedWeighting, TaskWeighting, UncertaintyWeighting
from lit_cv.tasks import BaseTask, TaskLoss

__all__ = ["Terms", "add_totals", "build_weighting", "loss_terms"]


class Terms(NamedTuple):
    """The loss of a task on a batch.

    Attributes:
        loss: The loss to minimize.
        means: Its terms without gradients, by logged name.
        counts: The count of each term in an epoch's mean.
    """

    loss: Tensor
    means: dict[str, Tensor]
    counts: dict[str, float | Tensor]


def build_weighting(hparams: Mapping[str, Any], tasks: Mapping[str, BaseTask]) -> TaskWeighting:
    """Return the weighting that the hyperparameters of `MultiTaskModule` select.

    Raises:
        ValueError: If `weighting` and `task_weights` do not fit together.
    """
    kind, weights, names = hparams["weighting"], hparams["task_weights"], list(tasks)
    if (weights is not None) != (kind == "fixed"):
        weights_argument = argument("task_weights")
        allowed = f"`fixed` needs a weight for each task in {weights_argument}, the others allow no weights"
        raise OptionError(None, "weighting", kind, allowed)
    if kind == "uncertainty":
        return UncertaintyWeighting(names, [name for name in names if tasks[name].likelihood == "classification"])
    if kind == "dwa":
        return DynamicWeightAverage(names, hparams["dwa_temperature"])
    return FixedWeighting(names, weights)


def loss_terms(task: BaseTask, loss: TaskLoss) -> Terms:
    """Return the loss terms of a task on a batch, of this rank, or of all ranks after `joined_losses`."""
    terms = {part: task.term(part, *sums) for part, sums in loss.parts.items()}
    names = {part: _loss_name(task.name, part) for part in loss.parts}
    counts = {names[part]: _count(count, task.least, loss.images) for part, (_, count) in loss.parts.items()}
    return Terms(task.total(terms), {names[part]: term.detach() for part, term in terms.items()}, counts)


def add_totals(values: Mapping[str, Tensor], tasks: Mapping[str, BaseTask], prefix: str = "") -> dict[str, Tensor]:
    """Return values with the total loss of each task that has several terms, computed from their means.

    Args:
        values: Means over an epoch, by name.
        tasks: The tasks by name.
        prefix: Prefix of the names in `values`.
    """
    totals = {}
    for name, task in tasks.items():
        terms = {part: v for part in task.parts if (v := values.get(prefix + _loss_name(name, part))) is not None}
        if terms:
            totals[prefix + _loss_name(name)] = task.total(terms)
    return {**values, **totals}


def _loss_name(name: str, part: str = "") -> str:
    return "_".join(word for word in (name, part, "loss") if word)


def _count(count: float | Tensor, least: float, images: float | Tensor) -> float | Tensor:
    """Return the count of a term in an epoch's mean, 0 if no image has a target."""
    if not least:
        return count
    return (count.clamp_min(least) if isinstance(count, Tensor) else max(count, least)) * (images > 0)
