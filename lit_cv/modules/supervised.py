"""Supervised classification of images."""

from typing import Any, Literal, cast

from torch import Tensor, nn

from lit_cv.distributed import joined_mean
from lit_cv.errors import DATA, argument
from lit_cv.modules.base import Output, Stage
from lit_cv.modules.task_module import TaskModule
from lit_cv.tasks import ClassificationTask, MultiLabelTask

__all__ = ["SupervisedModule"]


class SupervisedModule(TaskModule):
    """Learns to classify images from their labels, with one label or several labels per image.

    From a batch with `image` (N, C, H, W) and `label` it minimizes the cross-entropy of the softmax, or, for
    several labels per image, the binary cross-entropy of a sigmoid per class. `label` is (N,) int64, or (N, K)
    float: class weights of images mixed by CutMix or MixUp, or 0/1 for several labels. Unknown labels (-1; for
    several labels any negative number or NaN) are excluded from the loss and all metrics.

    It logs `{stage}_loss`, `{stage}_acc`, and in validation and test `f1` (macro), `ece` (expected calibration
    error, 15 bins) and, with more than five classes, `top5`. For several labels it logs `acc` and `f1` over the
    classes and `map` (mean average precision), which then is the `monitor`.

    Args:
        num_classes: Number of classes K; `None` takes it from the data.
        multi_label: Whether an image may have several labels or none; `None` takes it from the data.
        label_smoothing: Fraction of a label's weight that is spread evenly over all classes.
        class_weight: Weights of the classes in the loss: `balanced` (inverse to their frequency among the
            training labels, mean 1), a list of K numbers, or `None` for equal weights. With several labels
            they weight the positives, and `balanced` is the ratio of negatives to positives.
        dropout: Probability of dropping a feature before the classifier.
        per_class_metrics: Whether validation and test log the accuracy of each class as `acc_CLASS` (`f1_CLASS`
            for several labels).
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> import torch
        >>> module = SupervisedModule(backbone="conv4", num_classes=10, in_channels=1)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """

    monitor: str | None = "val_acc"
    mode: Literal["min", "max"] = "max"

    def __init__(
        self,
        num_classes: int | None = None,
        multi_label: bool | None = None,
        label_smoothing: float = 0.0,
        class_weight: Literal["balanced"] | list[float] | None = None,
        dropout: float = 0.0,
        per_class_metrics: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def make_task(self) -> ClassificationTask | MultiLabelTask:
        """Return the classification task built from the hyperparameters."""
        names = ("num_classes", "label_smoothing", "class_weight", "dropout", "per_class_metrics")
        return (MultiLabelTask if self.hparams["multi_label"] else ClassificationTask)("", **self.options(*names))

    @property
    def classes_task(self) -> ClassificationTask | MultiLabelTask:
        """The task, with its specific type."""
        return cast(ClassificationTask | MultiLabelTask, self.task)

    @property
    def num_classes(self) -> int:
        """Number of classes K.

        Raises:
            ValueError: If neither the arguments nor the data define it.
        """
        return self.classes_task.class_count

    @property
    def class_weight(self) -> Tensor | None:
        """Weights of the classes in the training loss."""
        return self.classes_task.class_weight

    @class_weight.setter
    def class_weight(self, weight: Tensor | None) -> None:
        self.classes_task.class_weight = weight

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier with dropout."""
        head = super().configure_head(num_features)
        if self.hparams["multi_label"]:
            self.monitor = "val_map"
        elif self.num_classes < 2:
            raise ValueError(
                f"there is only one class ({', '.join(self.classes_task.names)}): use images of two or more classes, "
                f"with a folder for each ({argument('root', DATA)}, {argument('classes', DATA)})."
            )
        return head

    def losses(self, output: Any, target: Any, stage: Stage) -> Output:
        """Return the loss, and in training also logits, target and accuracy."""
        output_and_loss = super().losses(output, target, stage)
        if stage == "train":
            output_and_loss |= {"logits": output, "target": target}
            accuracy = self.classes_task.accuracy(output.detach(), target)
            output_and_loss["acc"], output_and_loss["counts"]["acc"] = joined_mean(*accuracy, gather=False)
        return output_and_loss

    def loss(self, logits: Tensor, target: Tensor, stage: Stage) -> Tensor:
        """Return the mean loss over the labeled images, 0 if there are none."""
        return self.counted_loss(logits, target, stage)[0]

    def counted_loss(self, logits: Tensor, target: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        """Return the mean loss and its count in the epoch's mean.

        Label smoothing and class weights apply only in training, so that validation losses are comparable.
        """
        losses = super().losses(logits, target, stage)
        return losses["loss"], losses["counts"]["loss"]
