"""Metrics that the user adds to those of a task, by name."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.wrappers.abstract import WrapperMetric

from lit_cv.registry import Registry, resolve
from lit_cv.signatures import build

__all__ = ["METRICS", "ChosenMetric", "MetricNames", "build_metrics", "check_metrics", "known_rows"]

MetricNames = Sequence[str | Mapping[str, Any]]
"""Names of metrics, or dicts of a `name` and the metric's arguments."""

_MOST_BYTES = 1 << 30
Select = Callable[[Any, Any], tuple[Any, Any]]

METRICS: Registry[Callable[..., Metric]] = Registry("metric", Metric, "lit_cv.metrics")
"""The metrics that can be added, by name; those of `lit_cv.metrics.standard` are torchmetrics'."""


class ChosenMetric(WrapperMetric):
    """A metric that is fed with what is known alone; NaN where nothing was.

    Args:
        metric: The metric.
        select: Returns those of the outputs and targets of a batch that are known.
    """

    def __init__(self, metric: Metric, select: Select) -> None:
        super().__init__()
        self.metric = metric
        self._select = select

    def update(self, output: Any, target: Any) -> None:
        """Take in a batch.

        Raises:
            ValueError: If the metric is one of torchmetrics for another kind of task.
        """
        output, target = self._select(output, target)
        if not len(target):
            return
        try:
            self.metric.update(output, target)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if not type(self.metric).__module__.startswith("torchmetrics."):
                raise
            raise ValueError(
                f"the metric {type(self.metric).__name__} does not go with this task: {str(error).splitlines()[0]}"
            ) from error

    def compute(self) -> Any:
        """Return the value over all batches and ranks, one number or a dict of them.

        Raises:
            ValueError: If it is none.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            try:
                found = self.metric.compute()
            except (ValueError, IndexError, RuntimeError):
                if self.metric.update_called:
                    raise
                return torch.tensor(torch.nan, device=self.metric.device)
        for value in found.values() if isinstance(found, Mapping) else [found]:
            if not isinstance(value, Tensor) or value.numel() != 1:
                shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
                raise ValueError(
                    f"the metric {type(self.metric).__name__} returned a {type(value).__name__}{shape}: one number, or "
                    "a dict of them, can be logged."
                )
        return found

    def reset(self) -> None:
        """Start anew."""
        super().reset()
        self.metric.reset()


def known_rows(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a batch whose target is known in part: not negative, not NaN.

    Example:
        >>> known_rows(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, -1, 0]))
        (tensor([0.1000, 0.3000]), tensor([1, 0]))
    """
    known = ~target.isnan() if target.is_floating_point() else target >= 0
    rows = known.flatten(1).any(1) if known.ndim > 1 else known
    return output[rows], target[rows]


def check_metrics(metrics: MetricNames | None) -> None:
    """Raise ValueError or TypeError unless there are metrics of these names; None is built."""
    for entry in _entries(metrics):
        resolve(entry["name"], METRICS, "metrics")


def build_metrics(metrics: MetricNames | None, offered: Mapping[str, Any], select: Select) -> dict[str, ChosenMetric]:
    """Build the metrics that a user has chosen.

    Args:
        metrics: Names of `METRICS`, or `file.Class` for a `torchmetrics.Metric` of your own, or dicts of such a `name`
            and the metric's arguments.
        offered: What the task offers, such as `num_classes`; a metric gets what its constructor accepts.
        select: Returns those of the outputs and targets of a batch that a metric is fed with.

    Returns:
        The metrics by the names that they are logged with: the short one, or that of the class in lower case.

    Raises:
        TypeError: If an entry is neither a name nor a dict with one.
        ValueError: If there is no such metric, it does not go with the task, or two have the same name.
    """
    found: dict[str, ChosenMetric] = {}
    for entry in _entries(metrics):
        name = entry["name"]
        kind = resolve(name, METRICS, "metrics")
        given = {key: value for key, value in entry.items() if key != "name"}
        logged = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rpartition(".")[2]).lower()
        if logged in found:
            raise ValueError(f"metrics={list(metrics or ())!r}: there are two named {logged}.")
        if given:
            _check_size(kind, name, given, offered)
        found[logged] = ChosenMetric(build(kind, f"metric {name!r}", given, offered), select)
    return found


def _check_size(kind: Callable[..., Metric], name: str, given: Mapping[str, Any], offered: Mapping[str, Any]) -> None:
    """Refuse arguments, which may be a file's, with which a metric would take far more memory than any needs."""
    with suppress(RuntimeError, NotImplementedError, TypeError), torch.device("meta"):
        states = build(kind, f"metric {name!r}", given, offered)._defaults.values()
        size = sum(state.numel() * state.element_size() for state in states if isinstance(state, Tensor))
        if size > _MOST_BYTES:
            raise ValueError(f"metric {name!r}: its state would take {size:,} bytes: change {', '.join(given)}.")


def _entries(metrics: MetricNames | None) -> list[Mapping[str, Any]]:
    if metrics is None:
        return []
    if isinstance(metrics, str | Mapping) or not isinstance(metrics, Sequence):
        raise TypeError(f"metrics={metrics!r}: give a list of names, or of dicts with a name.")
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in metrics]
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise TypeError(f"metric {entry!r}: give a name, or a dict such as {{name: precision, average: micro}}.")
    return entries
