"""Classification tasks."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MultilabelAccuracy,
)
from torchmetrics.wrappers import ClasswiseWrapper

from lit_cv.contracts import as_data, class_lists
from lit_cv.errors import OptionError, argument
from lit_cv.ignore_index import UNLABELED
from lit_cv.losses.classification import image_cross_entropy, image_weights, label_cross_entropy
from lit_cv.metrics import ClassAccuracy, KnownAveragePrecision, KnownF1, MacroF1
from lit_cv.nn import ClassificationHead
from lit_cv.printable import printable
from lit_cv.tasks.base_task import TASKS
from lit_cv.tasks.class_weights import class_weights
from lit_cv.tasks.task import Task

__all__ = ["ClassificationTask", "MultiLabelTask"]


class _ClassesTask(Task):
    """Base of tasks with image classes: their number, their weights, and a linear head."""

    default_key = "label"
    likelihood = "classification"
    masks_unknown: ClassVar[bool] = True
    shown: ClassVar[tuple[str, str]] = ("logits", "target")
    lacking: ClassVar[str] = "no image of the {stage} data has a label"
    pipeline_tag: ClassVar[str | None] = "image-classification"
    multi_label: ClassVar[bool]
    class_weight: Tensor | None

    def __init__(
        self,
        name: str,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        class_weight: Literal["balanced"] | list[float] | None = None,
        dropout: float = 0.0,
        per_class_metrics: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise OptionError(self, "label_smoothing", label_smoothing, "must be at least 0 and below 1")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.weighting = class_weight
        self.dropout = dropout
        self.per_class_metrics = per_class_metrics
        self.register_buffer("class_weight", None, persistent=False)

    @property
    def source(self) -> str:
        """Description of data with such targets, for messages."""
        return "data with labels"

    @property
    def class_attribute(self) -> str:
        """Attribute of a DataModule that lists the class names."""
        return "class_names" if self.key == "label" else f"{self.key}_classes"

    @property
    def class_count(self) -> int:
        """Number of classes.

        Raises:
            ValueError: If neither the arguments nor the data define it.
        """
        if self.num_classes is None:
            source = f"names them in {self.key}_classes" if self.name else "defines it"
            raise ValueError(
                f"the number of classes{self.of_name} is unknown: set {argument(self.qualified('num_classes'))}, or "
                f"train on a DataModule that {source}."
            )
        return int(self.num_classes)

    @property
    def names(self) -> list[str]:
        """Names of the classes, or their numbers if the data have no names."""
        return [printable(name, lines=False) for name in self.class_names] or [str(k) for k in range(self.class_count)]

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Return the number of classes in the data, which must equal the user's.

        Raises:
            ValueError: If they differ.
        """
        names = class_lists(datamodule, f"{self.key}_classes")
        count = as_data(datamodule).num_classes if self.key == "label" else None
        inferred = next((len(listed) for listed in names.values()), count)
        if inferred is None:
            return {}
        if self.num_classes not in (None, inferred):
            name = self.qualified("num_classes")
            raise ValueError(
                f"the model has {name}={self.num_classes}, from its checkpoint or as an argument, but "
                f"{type(datamodule).__name__} has {inferred}: use the data that it was trained for, or without a "
                f"checkpoint leave {argument(name)} out."
            )
        return {"num_classes": int(inferred)}

    def start(self, datamodule: object, device: torch.device) -> None:
        """Compute the weights of the classes, which may require counting labels."""
        if self.weighting is not None:
            weight = class_weights(
                self.weighting, self.class_count, self.multi_label, datamodule, self.qualified("class_weight")
            )
            self.class_weight = weight.to(device)

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier with dropout."""
        return ClassificationHead(num_features, self.class_count, dropout=self.dropout)

    def metric_options(self) -> dict[str, Any]:
        """Return the number of classes, their names, and further arguments of torchmetrics."""
        k = self.class_count
        labels = {"task": "multilabel", "num_labels": k} if self.multi_label else {"task": "multiclass"}
        return {**labels, "num_classes": k, "class_names": self.names, "average": "macro", "ignore_index": -1}

    def predict(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `probabilities` (N, K) of the classes."""
        return {"probabilities": self.probabilities(output)}

    def probabilities(self, output: Tensor) -> Tensor:
        """Return the probabilities (N, K) of logits."""
        return output.float().sigmoid() if self.multi_label else output.float().softmax(-1)


@TASKS.add("classification")
class ClassificationTask(_ClassesTask):
    """Predicts the class of an image, trained by softmax cross-entropy.

    The target is (N,) int64, negative if unknown, or (N, K) float: class weights of images mixed by CutMix or MixUp.
    Metrics are `acc`, `f1` (macro), `ece` (expected calibration error, 15 bins) and, with more than five classes,
    `top5`.

    Args:
        name: Name of the task.
        num_classes: Number of classes K; `None` takes it from the data.
        label_smoothing: Fraction of a label's weight that is spread evenly over all classes, in training.
        class_weight: Weights of the classes in the training loss: `balanced` (inverse to their frequency among the
            training labels, mean 1), a list of K numbers, or `None` for equal weights.
        dropout: Probability of dropping a feature before the classifier.
        per_class_metrics: Whether to log the accuracy of each class as `acc_CLASS`.
        **kwargs: Arguments of `Task`; the default `key` is `label`.
    """

    score: ClassVar[str | None] = "acc"
    multi_label: ClassVar[bool] = False

    def configure_metrics(self) -> dict[str, Metric]:
        """Return accuracy, macro F1 and calibration error."""
        k = self.class_count
        metrics: dict[str, Metric] = {
            "acc": MulticlassAccuracy(k, average="micro", ignore_index=UNLABELED),
            "f1": MacroF1(k),
            "ece": MulticlassCalibrationError(k, n_bins=15, ignore_index=UNLABELED),
        }
        if k > 5:
            metrics["top5"] = MulticlassAccuracy(k, average="micro", top_k=5, ignore_index=UNLABELED)
        if self.per_class_metrics:
            metrics["class"] = ClasswiseWrapper(ClassAccuracy(k), labels=self.names, prefix="acc_")
        return metrics

    def known(self, target: Tensor) -> Tensor:
        """Return which images have a label; a row of -1 has none."""
        return super().known(target) if target.ndim == 1 else target.sum(1) > 0

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy (N,) of each image for logits (N, K); 0 without a label."""
        smoothing, weight = (self.label_smoothing, self.class_weight) if self.training else (0.0, None)
        return image_cross_entropy(output, target, weight, smoothing)

    def count(self, target: Tensor) -> Tensor:
        """Return the total weight of the labeled images: known label weights (partial in mixes) by class weights."""
        return image_weights(target, self.class_weight if self.training else None).sum()

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Update the metrics with probabilities and hard labels, -1 if unknown."""
        hard = target if target.ndim == 1 else torch.where(self.known(target), target.argmax(1), -1)
        metrics.update(self.probabilities(output), hard.clamp_min(UNLABELED))

    def accuracy(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of correct images and of labeled ones; mixed images count by their label weights."""
        if target.ndim == 1:
            return ((output.argmax(-1) == target) & (target >= 0)).sum().float(), (target >= 0).sum()
        return target.gather(1, output.argmax(-1)[:, None]).sum(), target.sum()


@TASKS.add("multi_label")
class MultiLabelTask(_ClassesTask):
    """Predicts which of K labels an image has, trained by binary cross-entropy.

    The target is (N, K), 0 or 1, negative or NaN if unknown; the loss of an image is the mean over its known labels.
    Metrics are `acc`, `f1` (macro) and `map` (mean average precision).

    Args:
        name: Name of the task.
        num_classes: Number of labels K; `None` takes it from the data.
        label_smoothing: Smoothing of the targets in training: s / 2 instead of 0, and 1 - s / 2 instead of 1.
        class_weight: Weights of the positive labels in the training loss: `balanced` (negatives per positive among the
            training labels), a list of K numbers, or `None` for equal weights.
        dropout: Probability of dropping a feature before the classifier.
        per_class_metrics: Whether to log the F1 score of each label as `f1_CLASS`.
        **kwargs: Arguments of `Task`; the default `key` is `label`.
    """

    score: ClassVar[str | None] = "map"
    multi_label: ClassVar[bool] = True

    def configure_metrics(self) -> dict[str, Metric]:
        """Return accuracy, macro F1 and mean average precision."""
        k = self.class_count
        metrics: dict[str, Metric] = {
            "acc": MultilabelAccuracy(k, average="micro", ignore_index=UNLABELED),
            "f1": KnownF1(k),
            "map": KnownAveragePrecision(k),
        }
        if self.per_class_metrics:
            each = KnownF1(k, average=False)
            metrics["class"] = ClasswiseWrapper(each, labels=self.names, prefix="f1_")
        return metrics

    def known(self, target: Tensor) -> Tensor:
        """Return which images have at least one known label."""
        if target.ndim != 2:
            raise ValueError(
                f"the task {self.name} is multi_label and needs (N, K) of 0 and 1, but {self.key!r} has the shape "
                f"{tuple(target.shape)}: set tasks.{self.name}.type to classification, or change tasks.{self.name}.key."
            )
        return _is_known(target).any(1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean binary cross-entropy (N,) of each image for logits (N, K); 0 without a known label."""
        smoothing, weight = (self.label_smoothing, self.class_weight) if self.training else (0.0, None)
        return label_cross_entropy(output, target, weight, smoothing)

    def count(self, target: Tensor) -> Tensor:
        """Return the number of images with a known label."""
        return _is_known(target).any(1).sum()

    def update_metrics(self, metrics: MetricCollection, output: Tensor, target: Tensor) -> None:
        """Update the metrics, with unknown labels as -1."""
        hard = torch.where(_is_known(target), target.float(), -1.0)
        metrics.update(self.probabilities(output), hard.round().long())

    def accuracy(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of correct labels and of known ones."""
        known = _is_known(target)
        return (((output > 0) == (target > 0.5)) & known).sum().float(), known.sum()


def _is_known(target: Tensor) -> Tensor:
    return target >= 0  # false for NaN, too
