"""Supervised learning: images and the labels that people gave them."""

from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MultilabelAccuracy,
)
from torchmetrics.wrappers import ClasswiseWrapper

from lit_cv.distributed import joined_mean
from lit_cv.losses import class_cross_entropy, label_cross_entropy
from lit_cv.metrics import ClassAccuracy, KnownAveragePrecision, KnownF1, MacroF1
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.modules.data_classes import ClassLists, class_lists
from lit_cv.nn import ClassificationHead
from lit_cv.printable import printable

__all__ = ["SupervisedModule"]


class SupervisedModule(BaseModule):
    """Learns to classify images from their labels, with one label an image or any number of them.

    From a batch with `image` (N, C, H, W) and `label` it minimises the cross-entropy of the softmax, or, for
    several labels an image, the binary cross-entropy of a sigmoid per class. `label` is (N,) int64, or (N, K)
    float: the weights of the classes in images mixed by CutMix or MixUp, or 0/1 for several labels. An image whose
    label is unknown (-1; for several labels any negative number or NaN) counts in no loss and no metric.

    Logs `{stage}_loss`, `{stage}_acc`, and in validation and test `f1` (macro), `ece` (expected calibration
    error, 15 bins) and, above five classes, `top5`; for several labels `acc` and `f1` over the classes and
    `map` (mean average precision), which then is the `monitor`.

    Args:
        num_classes: Number of classes K; `None` takes it from the data.
        multi_label: Whether an image may have several labels or none; `None` takes it from the data.
        label_smoothing: Share of a label's weight that is spread evenly over all classes.
        class_weight: Weights of the classes in the loss: `balanced` (inverse to their frequency among the
            training labels, mean 1), a list of K numbers, or `None` for equal weights. With several labels
            they weigh the positives, and `balanced` is the ratio of negatives to positives.
        dropout: Probability of dropping a feature before the classifier.
        per_class_metrics: Whether validation and test log the accuracy of each class as `acc_CLASS` (`f1_CLASS`
            for several labels).
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> module = SupervisedModule(backbone="conv4", num_classes=10, in_channels=1)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """

    monitor = "val_acc"
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
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: give a share from 0 up to, not including, 1.")
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", None, persistent=False)

    @property
    def num_classes(self) -> int:
        """Number of classes K.

        Raises:
            ValueError: If neither the arguments nor the data tell.
        """
        if self.hparams["num_classes"] is None:
            raise ValueError(
                "the number of classes is unknown: give num_classes (--model.num_classes), "
                "or train on a DataModule that has it."
            )
        return int(self.hparams["num_classes"])

    def classes_in(self, datamodule: object) -> ClassLists:
        """Return the names of the classes of images."""
        return class_lists(datamodule, "class_names")

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier behind dropout."""
        if self.hparams["multi_label"]:
            self.monitor = "val_map"
        elif self.num_classes < 2:
            raise ValueError(
                f"there is only one class ({', '.join(self._class_names())}): give images of two or more, in a folder "
                "for each class (--data.root, --data.classes)."
            )
        return ClassificationHead(num_features, self.num_classes, dropout=self.hparams["dropout"])

    def configure_metrics(self) -> dict[str, Metric]:
        """Return accuracy, macro F1, and calibration error or mean average precision."""
        k = self.num_classes
        if self.hparams["multi_label"]:
            metrics: dict[str, Metric] = {
                "acc": MultilabelAccuracy(k, average="micro", ignore_index=-1),
                "f1": KnownF1(k),
                "map": KnownAveragePrecision(k),
            }
            per_class: Metric = KnownF1(k, average=False)
        else:
            metrics = {
                "acc": MulticlassAccuracy(k, average="micro", ignore_index=-1),
                "f1": MacroF1(k),
                "ece": MulticlassCalibrationError(k, n_bins=15, ignore_index=-1),
            }
            if k > 5:
                metrics["top5"] = MulticlassAccuracy(k, average="micro", top_k=5, ignore_index=-1)
            per_class = ClassAccuracy(k)
        if self.hparams["per_class_metrics"]:
            name = "f1_" if self.hparams["multi_label"] else "acc_"
            metrics["class"] = ClasswiseWrapper(per_class, labels=self._class_names(), prefix=name)
        return metrics

    def on_fit_start(self) -> None:
        """Count the labels if the classes are to be balanced."""
        given = self.hparams["class_weight"]
        if given is None:
            return
        weight = self._balanced_weight() if given == "balanced" else torch.tensor(given, dtype=torch.float32)
        if weight.shape != (self.num_classes,):
            raise ValueError(f"class_weight has {weight.numel()} numbers for {self.num_classes} classes.")
        self.class_weight = weight.to(self.device)

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Classify a batch and compare with its labels."""
        target = batch["label"]
        logits = self.logits(batch, stage)
        loss, count = self.counted_loss(logits, target, stage)
        output: Output = {"loss": loss, "logits": logits, "target": target, "counts": {"loss": count}}
        if stage == "train":
            output["acc"], output["counts"]["acc"] = _accuracy(
                logits.detach(), target, bool(self.hparams["multi_label"])
            )
        return output

    def logits(self, batch: Batch, stage: Stage) -> Tensor:
        """Return the logits (N, K) of a batch."""
        return cast(Tensor, self(batch["image"]))

    def loss(self, logits: Tensor, target: Tensor, stage: Stage) -> Tensor:
        """Return the mean loss over the images that have a label, 0 where none has."""
        return self.counted_loss(logits, target, stage)[0]

    def counted_loss(self, logits: Tensor, target: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        """Return the mean loss, and how much it counts in the epoch's mean.

        It is smoothed and weighted in training only, so that validation is comparable.
        """
        smoothing: float = self.hparams["label_smoothing"] if stage == "train" else 0.0
        weight = self.class_weight if stage == "train" else None
        if self.hparams["multi_label"]:
            losses = label_cross_entropy(logits, target, weight, smoothing)
            return joined_mean(losses.sum(), (target >= 0).any(1).sum(), gather=stage == "train")
        return joined_mean(*class_cross_entropy(logits, target, weight, smoothing), gather=stage == "train")

    def update_metrics(self, metrics: Any, output: Output) -> None:
        """Feed one batch to the metrics, which want probabilities for the calibration error."""
        target = output["target"]
        probabilities = _probabilities(output["logits"], bool(self.hparams["multi_label"]))
        if self.hparams["multi_label"]:
            metrics.update(probabilities, torch.where(target >= 0, target, -1).long())
        else:
            metrics.update(probabilities, target.clamp_min(-1))

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave the metrics out where no image had a label."""
        if stage == "train" or f"{stage}_loss" in values:
            return values
        if not self.trainer.sanity_checking:
            rank_zero_warn(f"no image of the {stage} data has a label: there are no `{stage}` loss and metrics.")
        return {}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the `probabilities` (N, K) of the classes, and where the images stand in the data (`index`)."""
        probabilities = _probabilities(self(batch["image"]), bool(self.hparams["multi_label"]))
        return {"probabilities": probabilities, **{k: batch[k] for k in ("index", "label") if k in batch}}

    def _balanced_weight(self) -> Tensor:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(datamodule, "class_counts"):
            raise ValueError("class_weight='balanced' needs a DataModule that counts its labels (class_counts).")
        counts: Tensor = datamodule.class_counts().float()
        if (counts == 0).any():
            rank_zero_info("class_weight: classes without a training label get the weight 0.")
        if self.hparams["multi_label"]:
            labels = getattr(datamodule.train_dataset, "labels", None)
            known = len(datamodule.train_dataset) if labels is None else (labels >= 0).sum(0)
            negatives = known - counts
            return torch.where(counts > 0, negatives / counts, 0.0)
        weight = torch.where(counts > 0, 1 / counts, 0.0)
        return weight / weight.sum() * (counts > 0).sum()

    def _class_names(self) -> list[str]:
        names = getattr(getattr(self._trainer, "datamodule", None), "class_names", None)
        return (
            [printable(str(name), lines=False) for name in names]
            if names
            else [str(index) for index in range(self.num_classes)]
        )


def _probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    return logits.float().sigmoid() if multi_label else logits.float().softmax(-1)


def _accuracy(logits: Tensor, target: Tensor, multi_label: bool) -> tuple[Tensor, Tensor]:
    """Return the share of right answers, and of how many; for a mixed image, the label weight of the class answered."""
    if multi_label:
        right, known = (logits > 0) == (target > 0.5), target >= 0
    elif target.ndim == 1:
        right, known = logits.argmax(-1) == target, target >= 0
    else:
        weight = target.gather(1, logits.argmax(-1)[:, None])
        return joined_mean(weight.sum(), target.sum(), gather=False)
    return joined_mean((right & known).sum().float(), known.sum(), gather=False)
