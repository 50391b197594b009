"""Regression task."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection

from lit_cv.contracts import as_data
from lit_cv.errors import OptionError
from lit_cv.losses.classification import known_mean
from lit_cv.metrics import KnownR2Score
from lit_cv.tasks.base_task import TASKS
from lit_cv.tasks.task import Task

__all__ = ["RegressionTask"]

_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


@TASKS.add("regression")
class RegressionTask(Task):
    """Predicts one or several numbers per image.

    The target is float (N,) or (N, D), NaN if unknown; the loss of an image is the mean over its known values. It logs
    `mae`, `rmse` and `r2` (fraction of explained variance, averaged over the outputs).

    Args:
        name: Name of the task.
        num_outputs: Number of values D; `None` takes it from the data, or 1.
        loss: `mse` (squared error), `l1` (absolute error) or `huber` (squared up to 1, then linear).
        dropout: Probability of dropping a feature before the linear layer.
        **kwargs: Arguments of `Task`; the default `key` is the name.
    """

    score: ClassVar[str | None] = "r2"

    def __init__(
        self,
        name: str,
        num_outputs: int | None = None,
        loss: Literal["mse", "l1", "huber"] = "mse",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if loss not in _LOSSES:
            raise OptionError(self, "loss", loss, f"must be one of {', '.join(_LOSSES)}")
        if num_outputs is not None and num_outputs < 1:
            raise OptionError(self, "num_outputs", num_outputs, "must be at least 1")
        self.num_outputs = num_outputs
        self.kind = loss
        self.dropout = dropout

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Return the number of values, taken from the first training image."""
        dataset = as_data(datamodule).train_dataset
        if self.num_outputs is not None or dataset is None or not len(dataset):
            return {}
        first = dataset[0]
        target = first.get(self.key) if isinstance(first, dict) else None
        return {"num_outputs": 1 if target is None else max(1, torch.as_tensor(target).numel())}

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear layer with dropout."""
        return nn.Sequential(nn.Dropout(self.dropout), nn.Linear(num_features, self.num_outputs or 1))

    def configure_metrics(self) -> dict[str, Metric]:
        """Return mean absolute error, root mean squared error and R2."""
        return {
            "mae": MeanAbsoluteError(),
            "rmse": MeanSquaredError(squared=False),
            "r2": KnownR2Score(self.num_outputs or 1),
        }

    def metric_options(self) -> dict[str, Any]:
        """Return the number of values."""
        return {"num_outputs": self.num_outputs or 1}

    @staticmethod
    def known_entries(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images with all values known, (M, D), or (M,) for a single value."""
        rows = ~target.isnan().any(1)
        output, target = output[rows], target[rows]
        return (output[:, 0], target[:, 0]) if target.shape[1] == 1 else (output, target)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss (M,) of each image for predictions (M, D)."""
        target = self._columns(output, target)
        known = ~target.isnan()
        values = _LOSSES[self.kind](output.float(), torch.where(known, target, 0.0), reduction="none")
        return known_mean(values, known)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Update the metrics with the known values."""
        output, target = output.float(), self._columns(output, target)
        known = ~target.isnan()
        for name, metric in metrics.items(keep_base=True, copy_state=False):
            flat = name in ("mae", "rmse")
            metric.update(output[known] if flat else output, target[known] if flat else target)

    def predict(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `values` (N, D)."""
        return {"values": output.float()}

    def _columns(self, output: Tensor, target: Tensor) -> Tensor:
        target = target.float()
        if target.shape[0] != output.shape[0] or target.numel() != output.numel():
            raise ValueError(
                f"the task {self.name} has targets of shape {tuple(target.shape)} in {self.key!r} and outputs of shape "
                f"{tuple(output.shape)}: set tasks.{self.name}.num_outputs."
            )
        return target.view_as(output)
