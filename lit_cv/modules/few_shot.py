"""Base class of few-shot approaches: episodes, accuracy, and adaptation to new classes."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lit_cv.contracts import data_extras, datamodule_of
from lit_cv.errors import DATA, argument
from lit_cv.metrics import EpisodeAccuracy
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.nn import check_backbone_name, checkpoint_options

__all__ = ["FewShotModule"]


class FewShotModule(BaseModule):
    """Base of approaches that learn from episodes to classify new classes from a few examples.

    Batches are those of `EpisodicDataModule`: `support` and `query`, each with `image` (B, n, C, H, W) and `label`
    (B, n) from 0 to N - 1. A subclass implements `episode_logits`, and `adapt_to` and `adapted_logits` for new classes.

    It logs `train_loss` and `train_acc`; in validation and test `{stage}_loss` over all settings, and for each setting
    the mean accuracy of its episodes, such as `{stage}_5w1s_acc`, with `{stage}_5w1s_ci95`: the 95 % confidence
    interval is acc +- ci95. The `monitor` is the accuracy in the first setting.

    After training, `adapt(support_images, support_labels)` sets new classes and `predict(images)` classifies among
    them; `lit-cv predict` does the same with folders (`support_root` and `predict_root` of `EpisodicDataModule`).

    Args:
        backbone: Name of the network; `None` takes that of the checkpoint `weights`, or without weights the default:
            `conv4`, or `conv4_2pool` for relation networks.
        weights: Initial weights: the name of torchvision weights (`DEFAULT`) or the path of a checkpoint.
        **kwargs: Arguments of `BaseModule`.

    Attributes:
        default_backbone: Name of the network if none is set.
    """

    monitor = "val_loss"
    mode: Literal["min", "max"] = "min"
    default_backbone: ClassVar[str] = "conv4"

    def __init__(self, backbone: str | None = None, weights: str | None = None, **kwargs: Any) -> None:
        name = backbone
        if weights and name is None:
            name = checkpoint_options(weights).get("backbone")
            if name is not None:
                check_backbone_name(name, of_file=True)
        super().__init__(backbone=name or self.default_backbone, weights=weights, **kwargs)
        self.hparams["backbone"] = name or self.default_backbone  # Lightning stores the argument, possibly None
        self.adapted_labels: Tensor | None = None  # labels that `predict` returns

    @abstractmethod
    def episode_logits(self, batch: Batch, way: int, stage: Stage) -> Tensor:
        """Return the logits (B, Q, way) of the query images."""

    @abstractmethod
    def adapt_to(self, images: Tensor, labels: Tensor, way: int) -> None:
        """Set `way` classes from support images (S, C, H, W) with labels (S,) from 0."""

    @abstractmethod
    def adapted_logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, way) for the classes set by `adapt_to`."""

    def episode_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss, cross-entropy by default, of logits (B, Q, N) with labels (B, Q)."""
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())

    def configure_metrics(self) -> dict[str, Metric]:
        """Return one accuracy for each setting that the DataModule evaluates."""
        settings = data_extras(datamodule_of(self._trainer)).settings
        if settings:
            self.monitor, self.mode = f"val_{settings[0].name}_acc", "max"
        return {setting.name: EpisodeAccuracy(setting.name) for setting in settings}

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Classify the query images of a batch of episodes from their support images."""
        if not {"support", "query"} <= batch.keys():
            raise ValueError(
                f"{type(self).__name__} learns from episodes, batches with `support` and `query`, but got one with "
                f"{', '.join(batch)}: use EpisodicDataModule."
            )
        labels, target = batch["support"]["label"], batch["query"]["label"]
        way = batch["classes"].shape[1] if "classes" in batch else int(labels.max()) + 1
        logits = self.episode_logits(batch, way, stage)
        accuracy = (logits.detach().argmax(-1) == target).float().mean(1)
        output = {"loss": self.episode_loss(logits, target)}
        if stage == "train" or stage not in self.metrics:
            return {**output, "acc": accuracy.mean()}
        setting = torch.tensor([way, labels.shape[1] // way])
        return {**output, "accuracy": accuracy, "setting": setting}

    def update_metrics(self, metrics: MetricCollection, output: Output) -> None:
        """Update the metric of a setting with the accuracies of a batch of its episodes."""
        way, shot = output["setting"].tolist()
        name = f"{way}w{shot}s"
        if name in metrics:
            cast(EpisodeAccuracy, metrics[name]).update(output["accuracy"])

    def on_validation_epoch_start(self) -> None:
        """Start counting at zero, also in settings that a shortened validation does not reach."""
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        """Start counting at zero."""
        self._begin("test")

    def _begin(self, stage: Stage) -> None:
        if stage in self.metrics:
            for metric in cast(MetricCollection, self.metrics[stage]).values():
                metric.update(torch.empty(0, device=self.device))

    def adapt(self, support_images: Tensor, support_labels: Tensor) -> Self:
        """Set new classes from a few images of each, without changing the weights.

        Args:
            support_images: (S, C, H, W), uint8 or float in [0, 1].
            support_labels: (S,), any integers.

        Returns:
            The module, in evaluation mode.

        Raises:
            ValueError: If there are fewer than two classes, or if the numbers of images and labels differ.

        Example:
            >>> from lit_cv import PrototypicalModule
            >>> module = PrototypicalModule(in_channels=1)
            >>> images = torch.rand(4, 1, 28, 28)
            >>> module.adapt(images, torch.tensor([7, 7, 3, 3])).predict(images).tolist()
            [7, 7, 3, 3]
        """
        if support_labels.shape != support_images.shape[:1]:
            raise ValueError(
                f"support_labels has the shape {tuple(support_labels.shape)} for {len(support_images)} support images: "
                "use one label per image."
            )
        classes, labels = torch.unique(support_labels.to(self.device), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"support_labels contains {len(classes)} class: use images of two or more.")
        self.configure_model()
        self.eval()
        self.adapt_to(support_images.to(self.device), labels, len(classes))
        self.adapted_labels = classes
        return self

    def predict(self, images: Tensor) -> Tensor:
        """Return the labels (N,) of images (N, C, H, W) among the classes set by `adapt`."""
        probabilities = self.predict_proba(images)
        return cast(Tensor, self.adapted_labels)[probabilities.argmax(-1)]

    def predict_proba(self, images: Tensor) -> Tensor:
        """Return the probabilities (N, K) of the K classes set by `adapt`, in ascending order of their labels.

        Raises:
            ValueError: If `adapt` was not called before.
        """
        if self.adapted_labels is None:
            raise ValueError(
                "no classes have been set: call adapt(support_images, support_labels) first, or predict with folders "
                f"of images in {argument('support_root', DATA)} and {argument('predict_root', DATA)}."
            )
        return self.probabilities(self.adapted_logits(images.to(self.device)))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes from their logits (N, K), by softmax."""
        return logits.float().softmax(-1)

    def on_predict_start(self) -> None:
        """Set the classes of the DataModule's support images."""
        support_set = data_extras(datamodule_of(self.trainer)).support_set
        if support_set is not None:
            self.adapt(*support_set())

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the `probabilities` (N, K) of the classes and the dataset positions (`index`) of the images."""
        return {"probabilities": self.predict_proba(batch["image"]), **{k: batch[k] for k in ("index",) if k in batch}}
