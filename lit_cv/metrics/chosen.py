"""Metrics that a user adds to a task by name."""

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

_MAX_BYTES = 1 << 30
Select = Callable[[Any, Any], tuple[Any, Any]]

METRICS: Registry[Callable[..., Metric]] = Registry("metric", Metric, "lit_cv.metrics")
"""The metrics that can be added, by name, including torchmetrics' in `lit_cv.metrics.standard`."""


class ChosenMetric(WrapperMetric):
    """A metric that is updated only with known targets, and is NaN without any.

    Args:
        metric: The metric.
        select: Function that selects the outputs and targets of a batch with a known target.
    """

    def __init__(self, metric: Metric, select: Select) -> None:
        super().__init__()
        self.metric = metric
        self._select = select

    def update(self, output: Any, target: Any) -> None:
        """Add a batch.

        Raises:
            ValueError: If the metric is torchmetrics' and for another kind of task.
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
                f"the metric {type(self.metric).__name__} does not fit this task: {str(error).splitlines()[0]}"
            ) from error

    def compute(self) -> Any:
        """Return the value over all batches and ranks, one number or a dict of numbers.

        Raises:
            ValueError: If the metric returned anything else.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            try:
                result = self.metric.compute()
            except (ValueError, IndexError, RuntimeError):
                if self.metric.update_called:
                    raise
                return torch.tensor(torch.nan, device=self.metric.device)
        for value in result.values() if isinstance(result, Mapping) else [result]:
            if not isinstance(value, Tensor) or value.numel() != 1:
                shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
                raise ValueError(
                    f"the metric {type(self.metric).__name__} returned a {type(value).__name__}{shape}: return one "
                    "number, or a dict of numbers."
                )
        return result

    def reset(self) -> None:
        """Reset this metric and the wrapped one."""
        super().reset()
        self.metric.reset()


def known_rows(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a batch with at least one known target value, neither negative nor NaN.

    Example:
        >>> known_rows(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, -1, 0]))
        (tensor([0.1000, 0.3000]), tensor([1, 0]))
    """
    known = ~target.isnan() if target.is_floating_point() else target >= 0
    rows = known.flatten(1).any(1) if known.ndim > 1 else known
    return output[rows], target[rows]


def check_metrics(metrics: MetricNames | None) -> None:
    """Raise ValueError or TypeError unless all names are valid; no metric is built."""
    for entry in _entries(metrics):
        resolve(entry["name"], METRICS, "metrics")


def build_metrics(metrics: MetricNames | None, offered: Mapping[str, Any], select: Select) -> dict[str, ChosenMetric]:
    """Build the metrics that a user has chosen.

    Args:
        metrics: Names of `METRICS`, or `file.Class` for a user-defined `torchmetrics.Metric`, or dicts of such a `name`
            and the metric's arguments.
        offered: Arguments that the task offers, such as `num_classes`; a metric receives those it accepts.
        select: Function that selects the outputs and targets of a batch for a metric.

    Returns:
        The metrics by the names that they are logged with: the short name, or the class name in lower case.

    Raises:
        TypeError: If an entry is neither a name nor a dict with a name.
        ValueError: If there is no such metric, it does not fit the task, or two have the same name.
    """
    built: dict[str, ChosenMetric] = {}
    for entry in _entries(metrics):
        name = entry["name"]
        kind = resolve(name, METRICS, "metrics")
        arguments = {key: value for key, value in entry.items() if key != "name"}
        logged = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rpartition(".")[2]).lower()
        if logged in built:
            raise ValueError(f"metrics={list(metrics or ())!r}: two metrics would be logged as {logged}.")
        if arguments:
            _check_size(kind, name, arguments, offered)
        built[logged] = ChosenMetric(build(kind, f"metric {name!r}", arguments, offered), select)
    return built


def _check_size(
    kind: Callable[..., Metric], name: str, arguments: Mapping[str, Any], offered: Mapping[str, Any]
) -> None:
    """Refuse arguments, possibly read from a file, with which a metric would need an excessive amount of memory."""
    with suppress(RuntimeError, NotImplementedError, TypeError), torch.device("meta"):
        states = build(kind, f"metric {name!r}", arguments, offered)._defaults.values()
        size = sum(state.numel() * state.element_size() for state in states if isinstance(state, Tensor))
        if size > _MAX_BYTES:
            raise ValueError(f"metric {name!r}: its state would need {size:,} bytes: change {', '.join(arguments)}.")


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
