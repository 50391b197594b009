r"""A task of your own, with head, loss and metrics, and a module that learns it: how many objects an image shows.

The command, from this folder (`file.Class` names the class):

    lit-cv fit --model own_task.CountModule --model.backbone conv4 --model.lr 3e-3 --data ShapesDataModule \
        --data.targets boxes --data.shapes_per_image 4 --data.num_images 2000 --data.image_size 32 \
        --trainer.max_epochs 3

`val_mae` is the mean absolute error of the count (that of the median: 1). `MultiTaskModule` learns the same task beside
others: `--model.tasks '{shape: {type: classification}, count: {type: own_task.CountTask}}'`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric, MetricCollection

from lit_cv.modules.task_module import TaskModule
from lit_cv.tasks import Task


class CountTask(Task):
    """Predicts how many objects an image shows, as the rate of a Poisson distribution."""

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Linear(num_features, 1)

    def target(self, batch: Mapping[str, Any]) -> Tensor | None:
        return torch.tensor([len(boxes) for boxes in batch["boxes"]], device=batch["image"].device)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.poisson_nll_loss(output[:, 0], target, reduction="none")  # one for each image

    def configure_metrics(self) -> dict[str, Metric]:
        return {"mae": MeanAbsoluteError()}

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        metrics.update(output[:, 0].exp(), target)

    def predict(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"values": output.exp()}  # written by `lit-cv predict`


class CountModule(TaskModule):
    """Learns to count objects."""

    monitor: str | None = "val_mae"
    mode: Literal["min", "max"] = "min"

    def make_task(self) -> CountTask:
        return CountTask("")
