"""Self-training: a network learns in the target domain from its teacher's confident predictions."""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import Metric

from lit_cv.distributed import gather_batches
from lit_cv.errors import TRAINER, OptionError, argument
from lit_cv.losses import class_thresholds, pseudo_labels
from lit_cv.metrics import PseudoLabelQuality
from lit_cv.modules.base import Batch, Output
from lit_cv.modules.domain_adaptation import DomainAdaptationModule, Domains
from lit_cv.modules.target_domain import is_source
from lit_cv.nn import BackboneAndHead, MovingAverage

__all__ = ["SelfTrainingModule"]

log = logging.getLogger("lit_cv")


class SelfTrainingModule(DomainAdaptationModule):
    """Learns in the target from pseudo-labels: confident predictions of a teacher, the network's moving average.

    As in FixMatch (Sohn et al. 2020), the teacher predicts a weakly augmented view of a target image (`image`). If its
    highest probability reaches the threshold, the network is trained to predict the same class for a strongly augmented
    view (`strong`). The cross-entropy is averaged over all target images, with 0 for those below the threshold. The
    callback `WeakStrongAugmentation` creates the views; without it both see the same image. The teacher's weights are
    an exponential moving average of the network's (Tarvainen and Valpola 2017), updated after each optimizer step
    without gradients and saved in checkpoints. The network itself is used for validation and prediction.

    Predictions for the target use BatchNorm statistics of the target, the default of `target_statistics` here. The
    teacher normalizes weak views by their batch statistics. The network is trained with the statistics of the mixture
    of source and strong views, which fit neither domain: a teacher using them makes more mistakes, which the network
    learns, so that the next predictions get worse.

    In the first `source_epochs` the network learns only from the source, and its BatchNorm has the statistics of the
    source. Their validations are those of the source alone, which adaptation has to beat.

    Training may start from any checkpoint, for example of `DomainAdversarialModule`: `weights` loads backbone and
    classifier. Batches, the loss on source labels, lambda, metrics and `monitor` are those of `DomainAdaptationModule`.
    It also logs `train_pseudo_coverage` and `val_pseudo_coverage`, the fraction of target images with a pseudo-label,
    and, only for analysis, `val_pseudo_precision`, the fraction of correct ones among them. Self-training makes the
    teacher more confident even if it is wrong: `val_score` shows a collapse onto few classes, but not two swapped
    classes.

    Args:
        threshold: Minimum probability of a pseudo-label.
        class_balance: Whether the threshold is lower for classes that the teacher predicts less often, see
            `lit_cv.losses.class_thresholds`; their frequency is also a moving average.
        teacher_decay: Weight of the old teacher in each update.
        source_epochs: Epochs at the start that use the source alone.
        **kwargs: Arguments of `DomainAdaptationModule`, `SupervisedModule` and `BaseModule`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> module = SelfTrainingModule(backbone="conv4", num_classes=5, in_channels=1, threshold=0.9)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 5])
    """

    default_target_statistics = True
    class_share: Tensor

    def __init__(
        self,
        threshold: float = 0.95,
        class_balance: bool = True,
        teacher_decay: float = 0.99,
        source_epochs: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < threshold <= 1:
            raise OptionError(self, "threshold", threshold, "must be a probability above 0, up to 1")
        if not 0 <= teacher_decay < 1:
            raise OptionError(self, "teacher_decay", teacher_decay, "must be at least 0 and below 1")
        if source_epochs < 0:
            raise OptionError(self, "source_epochs", source_epochs, "must be at least 0")
        self._views_checked = False

    def configure_adaptation(self) -> None:
        """Initialize the teacher as a copy of the network."""
        self.teacher = MovingAverage(BackboneAndHead(self.backbone, self.head))
        self.register_buffer("class_share", torch.full((self.num_classes,), 1 / self.num_classes))

    def configure_metrics(self) -> dict[str, Metric]:
        """Add the quality of pseudo-labels to the metrics."""
        metrics = super().configure_metrics()
        return metrics if self.hparams["source_only"] else {**metrics, "pseudo_labels": PseudoLabelQuality()}

    def on_fit_start(self) -> None:
        """Log a message if training starts from random weights."""
        super().on_fit_start()
        h = self.hparams
        if h["weights"] is None and not h["source_only"] and not h["source_epochs"] and not self.global_step:
            rank_zero_only(log.info)(
                f"Self-training starts from random weights: {argument('weights', self)} is not set."
            )

    @property
    def adapts(self) -> bool:
        """Whether the network learns from the target in this epoch."""
        return super().adapts and self.current_epoch >= self.hparams["source_epochs"]

    def training_images(self, batch: Batch) -> Domains:
        """Return the images of the source and the strong views of the target."""
        target = batch["target"]
        if "strong" not in target and not self._views_checked and self.adapts:
            self._views_checked = True
            rank_zero_only(log.info)(
                "Teacher and network see the same views of target images: the callback WeakStrongAugmentation is not "
                f"used ({argument('callbacks', TRAINER)})."
            )
        return Domains(batch["source"]["image"], target.get("strong", target["image"]))

    def adaptation(self, batch: Batch, features: Domains, logits: Domains, weight: float) -> Output:
        """Return the cross-entropy of the network's predictions with the teacher's confident ones."""
        probabilities = self.teach(batch["target"]["image"])
        share = gather_batches(probabilities.mean(0, keepdim=True)).mean(0)
        self.class_share.lerp_(share, 1 - self.hparams["teacher_decay"])
        labels, mask = self.choose(probabilities)
        loss = (F.cross_entropy(logits.target.float(), labels, reduction="none") * mask).mean()
        n = len(mask)
        counts = {"adaptation_loss": n, "pseudo_coverage": n}
        return {"adaptation_loss": loss, "pseudo_coverage": mask.float().mean(), "counts": counts}

    @torch.no_grad()
    def teach(self, images: Tensor) -> Tensor:
        """Return the teacher's class probabilities (N, K) for raw images."""
        logits: Tensor = self.teacher(images)
        return logits.float().softmax(1)

    def choose(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pseudo-labels (N,) of probabilities (N, K), and the mask (N,) of confident ones."""
        threshold: float | Tensor = float(self.hparams["threshold"])
        if self.hparams["class_balance"]:
            threshold = class_thresholds(self.hparams["threshold"], self.class_share)
        return pseudo_labels(probabilities, threshold)

    def evaluation(self, batch: Batch, features: Tensor, logits: Tensor) -> Output:
        """Return the teacher's predictions for target images, for the metrics."""
        if self.hparams["source_only"] or is_source(batch):
            return {}
        return {"teacher": self.teach(batch["image"])}

    def update_metrics(self, metrics: Any, output: Output) -> None:
        """Update the metrics, including that of the teacher's predictions."""
        super().update_metrics(metrics, output)
        if "teacher" in output:
            metrics["pseudo_labels"].update(*self.choose(output["teacher"]), output["target"])

    def after_step(self) -> None:
        """Move the teacher's weights toward the network's. Its BatchNorm statistics are separate."""
        if not self.hparams["source_only"]:
            self.teacher.update(self.hparams["teacher_decay"])
