"""Methods and flags of a learning approach that subclasses override."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import lightning as L
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.contracts import Batch, ClassLists, Output, Stage
from lit_cv.modules.running_means import RunningMeans
from lit_cv.nn import Backbone, Preprocessing
from lit_cv.optim import parameter_groups

__all__ = ["Batch", "ExtensionPoints", "Output", "Stage"]


class ExtensionPoints(L.LightningModule, ABC):
    """The methods that subclasses of a module override, with their default behavior.

    Attributes:
        backbone: Network that turns images into features, once the networks are built.
        head: Network on top of the backbone.
        monitor: Metric that selects the best checkpoint and controls early stopping; `None` takes the newest.
        displayed: Metric in the progress bar; `None` shows the `monitor`.
        mode: Whether `monitor` is better when smaller (`min`) or greater (`max`).
        uses_unlabeled: Whether training also uses images with hidden labels (label -1).
        unlabeled_ratio: Unlabeled images (label -1) in a training batch for each labeled one; `None` mixes them as they
            come.
        expects_views: Whether batches need `views` (V, N, C, H, W) of the images, from `ContrastiveAugmentation`.
        expects_domains: Whether training batches hold a `source` and a `target`, from `DomainAdaptationDataModule`.
        evaluates_embedding: Whether validation evaluates the result of `embed`, by `EmbeddingEvaluation`.
        compares_features: Whether evaluation only needs features of single images, which do not depend on the rest of
            the batch; each image is then encoded once.
        needs_images: Whether loaders have to read the images.
    """

    backbone: Backbone
    head: nn.Module
    monitor: str | None = "val_loss"
    displayed: str | None = None
    mode: Literal["min", "max"] = "min"
    uses_unlabeled: ClassVar[bool] = False
    unlabeled_ratio: int | None = None
    expects_views: ClassVar[bool] = False
    expects_domains: ClassVar[bool] = False
    evaluates_embedding: ClassVar[bool] = False
    compares_features: ClassVar[bool] = False
    needs_images: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.means: dict[str, RunningMeans] = {stage: RunningMeans() for stage in ("train", "val", "test")}
        self.metrics = nn.ModuleDict()
        self.seed: int | None = None
        self.restored_preprocessing: Preprocessing | None = None  # from the checkpoint of the weights
        self.trained_classes: ClassLists = {}  # classes of the weights, by the DataModule's attribute of each list

    @property
    def has_networks(self) -> bool:
        """Whether the networks have been built."""
        return "backbone" in self._modules

    @abstractmethod
    def configure_networks(self) -> None:
        """Build `backbone` first, then all other networks and parts that depend on the data. It runs once."""

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> Output:
        """Return `loss`, any further scalars to log, and `logits` and `target` for the metrics.

        Scalars are means over the batch by default. If one is a mean over a part of it, such as the labeled images, or
        over something else, such as pixels, `counts`, a dict by scalar name, holds the number of them. Means over
        nothing (count 0) are excluded from the epoch's mean.

        A step that changes the images itself also returns them for figures, as `images` (N, C, H, W) uint8 or in
        [0, 1].
        """

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the metrics of validation and test by name, logged as `{stage}_{name}`."""
        return {}

    def update_metrics(self, metrics: MetricCollection, output: Output) -> None:
        """Update the metrics with `logits` and `target` of a batch; override it for other inputs."""
        if not {"logits", "target"} <= output.keys():
            raise TypeError(
                f"{type(self).__name__}.step returned {', '.join(output)}: its metrics need `logits` and `target`. "
                "Return both, or override update_metrics."
            )
        metrics.update(output["logits"], output["target"])

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the values to log for an epoch, given its means and metrics such as `val_loss`; all by default."""
        return values

    def penalties(self) -> dict[str, Tensor]:
        """Return terms, by name, that are added to the loss of each training step and logged; none by default.

        They depend only on the weights, such as their distance from pretrained weights.
        """
        return {}

    def after_step(self) -> None:
        """Update what depends on the weights, such as a moving average; does nothing by default.

        It runs without gradients after each optimizer step, once for all accumulated batches, before the learning rate
        changes, before callbacks see the end of the batch and before any checkpoint is written. `global_step` is still
        the index of the step, from 0. It also runs after steps that count but change no weight, those skipped by the
        float16 gradient scaler or by `NonFiniteGuard`. With manual optimization, which no module here uses,
        `training_step` must call it.
        """

    def classes_in(self, datamodule: object) -> ClassLists:
        """Return the class names that this module learns from a DataModule, by attribute; none by default."""
        return {}

    def declared_classes(self) -> ClassLists:
        """Return class names given as arguments, by the DataModule's attribute of their list; none by default."""
        return {}

    def build_metrics(self) -> None:
        """Build or rebuild the metrics of validation and test."""
        for stage in ("val", "test"):
            if metrics := self.configure_metrics():
                self.metrics[stage] = MetricCollection(dict(metrics), prefix=f"{stage}_")

    def compiled_networks(self) -> list[nn.Module]:
        """Return the networks that `compile` applies to: those that a training step calls as a whole."""
        return [self.backbone]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups, each with a `name`, `lr` and `weight_decay`."""
        return parameter_groups(self, lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])
