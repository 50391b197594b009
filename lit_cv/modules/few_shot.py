"""What few-shot approaches share: episodes, their accuracy, and the use of a trained module on new classes."""

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
    """Base of the approaches that learn to tell new classes from a few examples, from episodes.

    Batches are those of `EpisodicDataModule`: `support` and `query`, each with `image` (B, n, C, H, W) and `label`
    (B, n) from 0 to N - 1. A subclass implements `episode_logits`, and `adapt_to` and `adapted_logits` for the use
    on new classes.

    Logs `train_loss` and `train_acc`; in validation and test `{stage}_loss` over all settings, and for each setting
    `{stage}_5w1s_acc`, the mean accuracy of its episodes, with `{stage}_5w1s_ci95`, so that the 95 % confidence
    interval is acc +- ci95. The `monitor` is the accuracy in the first setting.

    After training, `adapt(support_images, support_labels)` takes up new classes and `predict(images)` tells them;
    `lit-cv predict` does so with folders (`support_root` and `predict_root` of `EpisodicDataModule`).

    Args:
        backbone: Name of the network; `None` takes that of the checkpoint `weights`, the usual one without weights:
            `conv4`, or `conv4_2pool` for relation networks.
        weights: Weights to start from: the name of torchvision weights (`DEFAULT`) or the path of a checkpoint.
        **kwargs: Arguments of `BaseModule`.

    Attributes:
        default_backbone: Name of the network where none is given.
    """

    monitor = "val_loss"
    mode: Literal["min", "max"] = "min"
    default_backbone: ClassVar[str] = "conv4"

    def __init__(self, backbone: str | None = None, weights: str | None = None, **kwargs: Any) -> None:
        named = backbone
        if weights and named is None:
            named = checkpoint_options(weights).get("backbone")
            if named is not None:
                check_backbone_name(named, of_file=True)
        super().__init__(backbone=named or self.default_backbone, weights=weights, **kwargs)
        self.hparams["backbone"] = named or self.default_backbone  # which Lightning holds as it was given
        self.adapted_labels: Tensor | None = None  # the labels that `predict` answers with

    @abstractmethod
    def episode_logits(self, batch: Batch, way: int, stage: Stage) -> Tensor:
        """Return the logits (B, Q, way) of the query images."""

    @abstractmethod
    def adapt_to(self, images: Tensor, labels: Tensor, way: int) -> None:
        """Take up `way` classes from support images (S, C, H, W) with labels (S,) from 0."""

    @abstractmethod
    def adapted_logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, way) of the classes taken up."""

    def episode_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of logits (B, Q, N) with labels (B, Q): the cross-entropy."""
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the accuracy in each setting that the DataModule evaluates."""
        settings = data_extras(datamodule_of(self._trainer)).settings
        if settings:
            self.monitor, self.mode = f"val_{settings[0].name}_acc", "max"
        return {setting.name: EpisodeAccuracy(setting.name) for setting in settings}

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Classify the query images of a batch of episodes by their support images."""
        if not {"support", "query"} <= batch.keys():
            raise ValueError(
                f"{type(self).__name__} learns from episodes, batches with `support` and `query`, but got one with "
                f"{', '.join(batch)}: take EpisodicDataModule."
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
        """Feed the accuracies of a batch of episodes, all of one setting, to the metric of that setting."""
        way, shot = output["setting"].tolist()
        name = f"{way}w{shot}s"
        if name in metrics:
            cast(EpisodeAccuracy, metrics[name]).update(output["accuracy"])

    def on_validation_epoch_start(self) -> None:
        """Count from nothing, also in settings that a shortened validation does not come to."""
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        """Count from nothing."""
        self._begin("test")

    def _begin(self, stage: Stage) -> None:
        if stage in self.metrics:
            for metric in cast(MetricCollection, self.metrics[stage]).values():
                metric.update(torch.empty(0, device=self.device))

    def adapt(self, support_images: Tensor, support_labels: Tensor) -> Self:
        """Take up new classes from a few images of each; the weights stay as they are.

        Args:
            support_images: (S, C, H, W), uint8 or float in [0, 1].
            support_labels: (S,), any integers.

        Returns:
            The module, in evaluation mode.

        Raises:
            ValueError: If there are fewer than two classes, or not a label for each image.

        Example:
            >>> from lit_cv import PrototypicalModule
            >>> module = PrototypicalModule(in_channels=1)
            >>> images = torch.rand(4, 1, 28, 28)
            >>> module.adapt(images, torch.tensor([7, 7, 3, 3])).predict(images).tolist()
            [7, 7, 3, 3]
        """
        if support_labels.shape != support_images.shape[:1]:
            raise ValueError(
                f"support_labels of shape {tuple(support_labels.shape)} for {len(support_images)} support images: "
                "give one label for each."
            )
        known, labels = torch.unique(support_labels.to(self.device), return_inverse=True)
        if len(known) < 2:
            raise ValueError(f"support_labels name {len(known)} class: give images of two or more.")
        self.configure_model()
        self.eval()
        self.adapt_to(support_images.to(self.device), labels, len(known))
        self.adapted_labels = known
        return self

    def predict(self, images: Tensor) -> Tensor:
        """Return the labels (N,) of images (N, C, H, W) among the classes that `adapt` took up."""
        probabilities = self.predict_proba(images)
        return cast(Tensor, self.adapted_labels)[probabilities.argmax(-1)]

    def predict_proba(self, images: Tensor) -> Tensor:
        """Return the probabilities (N, K) of the K classes that `adapt` took up, their labels in ascending order.

        Raises:
            ValueError: If `adapt` was not called before.
        """
        if self.adapted_labels is None:
            raise ValueError(
                "there are no classes to tell yet: call adapt(support_images, support_labels) first, or predict with "
                f"{argument('support_root', DATA)} and {argument('predict_root', DATA)}, folders of images."
            )
        return self.probabilities(self.adapted_logits(images.to(self.device)))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes from their logits (N, K): the softmax."""
        return logits.float().softmax(-1)

    def on_predict_start(self) -> None:
        """Take up the classes of the DataModule's support images."""
        support_set = data_extras(datamodule_of(self.trainer)).support_set
        if support_set is not None:
            self.adapt(*support_set())

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the `probabilities` (N, K) of the classes, and where the images stand in the data (`index`)."""
        return {"probabilities": self.predict_proba(batch["image"]), **{k: batch[k] for k in ("index",) if k in batch}}
