"""What a learning approach gives: the step that it learns by, its metrics, and what it does beside them."""

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
    """The methods of a module that its subclasses override, each with what it does where they do not.

    Attributes:
        backbone: Network that turns images into features, once the networks are built.
        head: What is on top of it.
        monitor: Metric that decides which checkpoint is the best, and when to stop early.
        mode: Whether `monitor` is better when smaller (`min`) or greater (`max`).
        uses_unlabeled: Whether training takes the images whose labels are hidden, too (label -1).
        expects_views: Whether batches need `views` (V, N, C, H, W) of the images, from `ContrastiveAugmentation`.
        expects_domains: Whether training batches hold a `source` and a `target`, from `DomainAdaptationDataModule`.
        evaluates_embedding: Whether validation is to judge what `embed` gives, by `EmbeddingEvaluation`.
        compares_features: Whether evaluation needs nothing of an image but features of its own, which do not depend
            on the rest of the batch; each image is then encoded once.
        needs_images: Whether loaders have to read the images.
    """

    backbone: Backbone
    head: nn.Module
    monitor: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    uses_unlabeled: ClassVar[bool] = False
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
        self.restored_preprocessing: Preprocessing | None = None  # of the checkpoint that the weights are from
        self.trained_classes: ClassLists = {}  # what the weights tell apart, by the DataModule's name of each list

    @property
    def has_networks(self) -> bool:
        """Whether the networks are there."""
        return "backbone" in self._modules

    @abstractmethod
    def configure_networks(self) -> None:
        """Build the networks, once, and what else depends on the data; the module's `backbone` comes first."""

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> Output:
        """Return `loss`, any further scalars to log, and `logits` and `target` for the metrics.

        A scalar that is a mean over a part of the batch alone, such as the images that have a label, or over
        something else, such as pixels, says over how much in `counts`, a dict of numbers or scalars by the scalar's
        name; those that are means over nothing are left out of the epoch's mean.

        A step that changes the images itself also returns them, as `images` (N, C, H, W) uint8 or in [0, 1]: they are
        those that pictures are to show beside `logits` and `target`.
        """

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the metrics of validation and test by name; they are logged as `{stage}_{name}`."""
        return {}

    def update_metrics(self, metrics: MetricCollection, output: Output) -> None:
        """Feed one batch to the metrics: `logits` and `target`; override it for others."""
        if not {"logits", "target"} <= output.keys():
            raise TypeError(
                f"{type(self).__name__}.step returned {', '.join(output)}: its metrics need `logits` and `target`, or "
                "an update_metrics of its own."
            )
        metrics.update(output["logits"], output["target"])

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what is logged of an epoch whose means and metrics are `values`, such as `val_loss`; here these."""
        return values

    def penalties(self) -> dict[str, Tensor]:
        """Return terms that are added to the loss of each training step, by name, and logged; here none.

        They depend on the weights alone, such as their distance from pretrained ones.
        """
        return {}

    def after_step(self) -> None:
        """Change what follows the weights, such as a moving average of them; here nothing.

        It runs after each optimizer step, once for all accumulated batches, without recording gradients, and before the
        learning rate moves, any callback sees the end of the batch and any checkpoint is written. `global_step` is
        still the number of the step, from 0. Steps that are counted but change no weight, as the scaler of float16
        and `NonFiniteGuard` leave them out, are followed by it, too. With manual optimization, which no module here
        has, `training_step` calls it.
        """

    def classes_in(self, datamodule: object) -> ClassLists:
        """Return the names of the classes that this module learns from a DataModule, by its attribute; here none."""
        return {}

    def declared_classes(self) -> ClassLists:
        """Return the names of classes that the arguments give, by the DataModule's name of their list; here none."""
        return {}

    def build_metrics(self) -> None:
        """Build the metrics of validation and test, anew if they are there already."""
        for stage in ("val", "test"):
            if metrics := self.configure_metrics():
                self.metrics[stage] = MetricCollection(dict(metrics), prefix=f"{stage}_")

    def compiled_networks(self) -> list[nn.Module]:
        """Return the networks that `compile` is for: those that a training step calls as a whole."""
        return [self.backbone]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups, each with a `name`, `lr` and `weight_decay`."""
        return parameter_groups(self, lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])
