"""Base class of unsupervised domain adaptation."""

import math
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from lit_cv.contracts import as_data, datamodule_of
from lit_cv.errors import TRAINER, OptionError, argument, setting
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.target_domain import TargetDomainModule
from lit_cv.nn.batch_statistics import batch_norms, untracked_statistics

__all__ = ["DomainAdaptationModule", "Domains"]


class Domains(NamedTuple):
    """Corresponding tensors of both domains, (N, ...) each."""

    source: Tensor
    target: Tensor


class DomainAdaptationModule(TargetDomainModule):
    """Base of modules that learn from a labeled source domain to classify an unlabeled target domain.

    From batches of `DomainAdaptationDataModule` it learns the source labels by cross-entropy. A subclass adds a loss on
    both domains, `adaptation`. This loss, or for adversarial methods its gradient, is weighted by
    lambda = `adaptation_weight` * (2 / (1 + exp(-ramp p)) - 1), where p is the fraction of training completed
    (Ganin et al. 2016, section 5.2.2): adapting features makes no sense before they separate the classes.

    Both domains pass through the network together, so that BatchNorm normalizes them by the same statistics of an equal
    mixture of source and target. With `source_only` training does not use target images at all, not even in BatchNorm.
    This is the baseline that shows the benefit of adaptation. With `target_statistics`, BatchNorm's running statistics,
    by which evaluation normalizes, cover only target images (Li et al. 2016, "AdaBN"): the network processes them once
    more at each step, without gradients. Together with `source_only` this is the method of that paper, the cheapest
    adaptation of all.

    In training it logs `train_source_loss`, `train_adaptation_loss`, `train_lambda` and `train_acc` (on the source).
    For validation and test see `TargetDomainModule`.

    Args:
        source_only: Whether to learn from the source alone.
        target_statistics: Whether BatchNorm's running statistics are those of target images; `None` for what suits the
            method: false, but true for `SelfTrainingModule`.
        adaptation_weight: Maximum weight of the adaptation.
        ramp: Steepness of lambda's rise during training; `None` for the full weight from the start.
        **kwargs: Arguments of `TargetDomainModule`, `SupervisedModule` and `BaseModule`.

    Raises:
        ValueError: If a value is out of range.
    """

    expects_domains: ClassVar[bool] = True
    default_target_statistics: ClassVar[bool] = False
    weighs_gradient: ClassVar[bool] = False  # whether `adaptation` applies lambda to the gradient itself
    structural: ClassVar[tuple[str, ...]] = ("source_only",)  # arguments that determine a checkpoint's tensors

    def __init__(
        self,
        source_only: bool = False,
        target_statistics: bool | None = None,
        adaptation_weight: float = 1.0,
        ramp: float | None = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if adaptation_weight <= 0:
            raise OptionError(self, "adaptation_weight", adaptation_weight, "must be positive, or set source_only")
        if ramp is not None and ramp <= 0:
            raise OptionError(self, "ramp", ramp, "must be positive, or null for the full weight from the start")
        self._total_steps = 0.0

    @abstractmethod
    def adaptation(self, batch: Batch, features: Domains, logits: Domains, weight: float) -> Output:
        """Return `adaptation_loss` of a training batch, and further scalars to log, with `counts` as in `step`.

        Args:
            batch: The batch of both domains.
            features: Features (N, num_features).
            logits: Logits (N, K).
            weight: Lambda of this step, for modules that apply it to the gradient (`weighs_gradient`).
        """

    def configure_networks(self) -> None:
        """Build the networks."""
        super().configure_networks()
        if self.hparams["target_statistics"] and not batch_norms(self.backbone):
            raise OptionError(
                self,
                "target_statistics",
                True,
                f"{self.hparams['backbone']} has no BatchNorm, so leave it out, or choose another "
                f"{argument('backbone', self)}",
            )
        if not self.hparams["source_only"]:
            self.configure_adaptation()

    def configure_adaptation(self) -> None:
        """Build networks that only the adaptation needs; none by default."""

    def expected_shares(self) -> Tensor | None:
        """Return the class shares of the source's labels."""
        counts = as_data(datamodule_of(self._trainer)).class_counts
        return None if counts is None else counts().float()

    def training_images(self, batch: Batch) -> Domains:
        """Return the images of a batch that pass through the network."""
        return Domains(batch["source"]["image"], batch["target"]["image"])

    @property
    def adapts(self) -> bool:
        """Whether training uses target images for more than statistics."""
        return not self.hparams["source_only"]

    @property
    def uses_target_statistics(self) -> bool:
        """Whether BatchNorm's running statistics are those of target images."""
        chosen = self.hparams["target_statistics"]
        return self.default_target_statistics and self.adapts if chosen is None else bool(chosen)

    def adaptation_lambda(self) -> float:
        """Return lambda, the weight of the adaptation, at this step.

        Raises:
            ValueError: If the length of training is unknown.
        """
        weight, ramp = float(self.hparams["adaptation_weight"]), self.hparams["ramp"]
        if ramp is None:
            return weight
        if not self._total_steps:
            self._total_steps = float(self.trainer.estimated_stepping_batches)
        if math.isinf(self._total_steps):
            raise ValueError(
                f"`ramp` needs the length of training, which is unknown: set {argument('max_epochs', TRAINER)} or "
                f"{argument('max_steps', TRAINER)}, or {setting('ramp', None, self)}."
            )
        return weight * (2 / (1 + math.exp(-ramp * self.global_step / self._total_steps)) - 1)

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Learn from a batch of both domains; in evaluation, classify a batch of one domain."""
        if stage != "train":
            return self.evaluate(batch, stage)
        if not isinstance(batch.get("source"), dict) or not isinstance(batch.get("target"), dict):
            raise ValueError(
                f"{type(self).__name__} learns from batches with `source` and `target`, but got one with "
                f"{', '.join(map(str, batch))}: use DomainAdaptationDataModule."
            )
        if not self.uses_target_statistics:
            return self._learn(batch)
        with untracked_statistics(self.backbone):
            output = self._learn(batch)
        if batch_norms(self.backbone):
            with torch.no_grad():
                self.backbone(batch["target"]["image"])
        return output

    def _learn(self, batch: Batch) -> Output:
        """Return the loss on source labels, and that of the adaptation if it takes part."""
        images, label = self.training_images(batch), batch["source"]["label"]
        n = len(label)
        together = torch.cat(images) if self.adapts else images.source
        features = self.backbone(together)
        logits = cast(Tensor, self.head(features))
        loss, count = self.counted_loss(logits[:n], label, "train")
        accuracy, labeled = self.accuracy(logits[:n], label)
        output: Output = {"loss": loss, "source_loss": loss.detach(), "acc": accuracy}
        output["counts"] = {"source_loss": count, "acc": labeled}
        if not self.adapts:
            return output
        weight = self.adaptation_lambda()
        added = self.adaptation(batch, Domains(features[:n], features[n:]), Domains(logits[:n], logits[n:]), weight)
        output |= {**added, "counts": output["counts"] | added.get("counts", {})}
        adaptation_loss = output["adaptation_loss"]
        output["loss"] = loss + (adaptation_loss if self.weighs_gradient else weight * adaptation_loss)
        output["lambda"] = torch.tensor(weight, device=self.device)
        output["adaptation_loss"] = adaptation_loss.detach()
        return output

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise an error if the checkpoint's networks have another structure."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get("hyper_parameters", {})
        for name in self.structural:
            if saved.get(name, self.hparams[name]) != self.hparams[name]:
                raise ValueError(
                    f"the checkpoint was trained with {name}={saved[name]!r}, this run has {self.hparams[name]!r}: "
                    f"leave {argument(name, self)} out, or start a new run from its weights with "
                    f"{argument('weights', self)}."
                )
