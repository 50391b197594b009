"""Tasks whose answers are classes."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MultilabelAccuracy,
)

from lit_cv.losses import label_cross_entropy
from lit_cv.metrics import KnownAveragePrecision, KnownF1, MacroF1
from lit_cv.nn import ClassificationHead
from lit_cv.tasks.task import Task

__all__ = ["ClassificationTask", "MultiLabelTask"]


class _ClassesTask(Task):
    """What tasks with classes share: their number, and a linear head."""

    default_key = "label"
    likelihood = "classification"

    def __init__(
        self,
        name: str,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: give a share from 0 up to, not including, 1.")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.dropout = dropout

    @property
    def class_attribute(self) -> str:
        """Attribute of a DataModule that lists the names of the classes."""
        return "class_names" if self.key == "label" else f"{self.key}_classes"

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Take the number of classes from the DataModule, which must not contradict the one given.

        Raises:
            ValueError: If it does.
        """
        own = getattr(datamodule, f"{self.key}_classes", None)  # names of the classes
        found = len(own) if own else getattr(datamodule, "num_classes", None) if self.key == "label" else None
        if found is None:
            return {}
        if self.num_classes not in (None, found):
            raise ValueError(
                f"the model has tasks.{self.name}.num_classes={self.num_classes}, of its checkpoint or of "
                f"--model.tasks, but {type(datamodule).__name__} has {found}: choose the data that it was trained for "
                "(--data), or without a checkpoint leave it out."
            )
        return {"num_classes": int(found)}

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier behind dropout."""
        return ClassificationHead(num_features, self._classes(), dropout=self.dropout)

    def _classes(self) -> int:
        if self.num_classes is None:
            raise ValueError(
                f"the number of classes of the task {self.name} is unknown: give tasks.{self.name}.num_classes, or "
                f"train on a DataModule that has {self.key}_classes, their names."
            )
        return self.num_classes


class ClassificationTask(_ClassesTask):
    """Tells the class of an image, by the cross-entropy of a softmax.

    The target is (N,) int64, -1 where it is unknown, or (N, K) float: the weights of the classes in images mixed by
    CutMix or MixUp. Logs `acc` and `f1` (macro).

    Args:
        name: Name of the task.
        num_classes: Number of classes K; `None` takes it from the data.
        label_smoothing: Share of a label's weight that is spread evenly over all classes, in training.
        dropout: Probability of dropping a feature before the classifier.
        **kwargs: Arguments of `Task`; `key` is `label`.
    """

    score: ClassVar[str | None] = "acc"

    def configure_metrics(self) -> dict[str, Metric]:
        """Return accuracy and macro F1."""
        k = self._classes()
        return {"acc": MulticlassAccuracy(k, average="micro"), "f1": MacroF1(k)}

    def known(self, target: Tensor) -> Tensor:
        """Return which images have a label; a row of -1 is none."""
        return super().known(target) if target.ndim == 1 else target.sum(1) > 0

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each image (M,), of logits (M, K)."""
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(output.float(), target, label_smoothing=smoothing, reduction="none")

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the metrics with hard labels."""
        metrics.update(output, target if target.ndim == 1 else target.argmax(1))

    def predict(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `probabilities` (N, K) of the classes."""
        return {"probabilities": output.float().softmax(-1)}


class MultiLabelTask(_ClassesTask):
    """Tells which of K labels an image has, by a binary cross-entropy for each.

    The target is (N, K), 0 or 1, negative or NaN where it is unknown; an image counts by the mean over its known
    labels. Logs `acc`, `f1` (macro) and `map` (mean average precision).

    Args:
        name: Name of the task.
        num_classes: Number of labels K; `None` takes it from the data.
        label_smoothing: Share of a label's weight that goes to its opposite, halved, in training.
        dropout: Probability of dropping a feature before the classifier.
        **kwargs: Arguments of `Task`; `key` is `label`.
    """

    score: ClassVar[str | None] = "map"

    def configure_metrics(self) -> dict[str, Metric]:
        """Return accuracy, macro F1 and mean average precision."""
        k = self._classes()
        return {
            "acc": MultilabelAccuracy(k, average="micro", ignore_index=-1),
            "f1": KnownF1(k),
            "map": KnownAveragePrecision(k),
        }

    def known(self, target: Tensor) -> Tensor:
        """Return which images have any known label."""
        if target.ndim != 2:
            raise ValueError(
                f"the task {self.name} is multi_label and needs (N, K) of 0 and 1, but {self.key!r} has the shape "
                f"{tuple(target.shape)}: set tasks.{self.name}.type classification, or tasks.{self.name}.key."
            )
        return _answered(target).any(1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of each image (M,), of logits (M, K)."""
        smoothing = self.label_smoothing if self.training else 0.0
        return label_cross_entropy(output, target, label_smoothing=smoothing)

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Feed the metrics, unknown labels as -1."""
        hard = torch.where(_answered(target), target.float(), -1.0)
        metrics.update(output.float().sigmoid(), hard.round().long())

    def predict(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `probabilities` (N, K) of the labels."""
        return {"probabilities": output.float().sigmoid()}


def _answered(target: Tensor) -> Tensor:
    return target >= 0  # false for NaN, too
