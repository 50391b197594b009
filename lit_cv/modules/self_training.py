"""Self-training: a network learns in the target domain from answers that its teacher is sure of."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric

from lit_cv.distributed import gather_batches
from lit_cv.errors import TRAINER, OptionError, argument
from lit_cv.losses import class_thresholds, pseudo_labels
from lit_cv.metrics import PseudoLabelQuality
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.domain_adaptation import DomainAdaptationModule, Domains, is_source
from lit_cv.nn import MovingAverage
from lit_cv.nn.batch_statistics import batch_norms, untracked_statistics

__all__ = ["SelfTrainingModule"]


class SelfTrainingModule(DomainAdaptationModule):
    """Learns in the target from pseudo-labels: what a teacher, its own moving average, is sure of.

    As in FixMatch (Sohn et al. 2020), the teacher looks at a weakly changed view of a target image (`image`), and
    where its highest probability reaches the threshold, the network has to give the same answer for a strongly
    changed view (`strong`); the cross-entropy is averaged over all target images, left out ones counting 0. The
    callback `WeakStrongAugmentation` makes the views; without it both see the same image. The teacher's
    weights are an exponential moving average of the network's (Tarvainen and Valpola 2017), moved after each
    optimizer step and without a gradient; they are saved in checkpoints. What is validated and used is the network
    itself.

    Answers for the target go by BatchNorm statistics of the target (Li et al. 2016, "AdaBN"). The teacher normalises
    weak views by the statistics of their batch, and what it and the network remember for validation and use are
    those of weak target views alone, for which the network sees these once more, without a gradient. It learns by the
    statistics of the mixture of source and strong views, which fit neither domain: a teacher that answers by them is
    wrong more often, the network learns its mistakes, and the next answers are worse.

    It goes on from any checkpoint, that of `DomainAdversarialModule` for example: `weights` takes over backbone and
    classifier. Batches, the learning of the source's labels, lambda, metrics and `monitor` are those of
    `DomainAdaptationModule`. Logs besides `train_pseudo_coverage` and `val_pseudo_coverage`, the share of target
    images that get a pseudo-label, and, for analysis alone, `val_pseudo_precision`, the share of those that is right.
    Self-training raises the teacher's confidence, whether it is right or not: `val_score` tells a collapse onto few
    classes, but not two classes that are swapped.

    Args:
        threshold: Least probability of a pseudo-label.
        class_balance: Whether the threshold is lower for classes that the teacher gives less often, see
            `lit_cv.losses.class_thresholds`; their share is a moving average, too.
        teacher_decay: Share of the teacher that stays at each step.
        **kwargs: Arguments of `DomainAdaptationModule`, `SupervisedModule` and `BaseModule`.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> module = SelfTrainingModule(backbone="conv4", num_classes=5, in_channels=1, threshold=0.9)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 5])
    """

    class_share: Tensor

    def __init__(
        self, threshold: float = 0.95, class_balance: bool = True, teacher_decay: float = 0.99, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < threshold <= 1:
            raise OptionError(self, "threshold", threshold, "give a probability above 0, up to 1")
        if not 0 <= teacher_decay < 1:
            raise OptionError(self, "teacher_decay", teacher_decay, "give a share from 0 up to, not including, 1")
        self._told = False

    def configure_adaptation(self) -> None:
        """Make the teacher a copy of the network as it starts."""
        self.teacher = MovingAverage(nn.ModuleDict({"backbone": self.backbone, "head": self.head}))
        self.register_buffer("class_share", torch.full((self.num_classes,), 1 / self.num_classes))

    def configure_metrics(self) -> dict[str, Metric]:
        """Add the quality of pseudo-labels."""
        metrics = super().configure_metrics()
        return metrics if self.hparams["source_only"] else {**metrics, "pseudo_labels": PseudoLabelQuality()}

    def on_fit_start(self) -> None:
        """Log that nothing was learned before."""
        super().on_fit_start()
        if self.hparams["weights"] is None and not self.hparams["source_only"] and not self.global_step:
            rank_zero_info(f"Self-training starts from random weights: {argument('weights', self)} was not given.")

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Learn without remembering the mixture's BatchNorm statistics, but the target's."""
        if stage != "train" or self.hparams["source_only"]:
            return super().step(batch, stage)
        with untracked_statistics(self.backbone):
            output = super().step(batch, stage)
        if batch_norms(self.backbone):
            with torch.no_grad():
                self.backbone(batch["target"]["image"])
        return output

    def training_images(self, batch: Batch) -> Domains:
        """Return the source's images and the strong views of the target's."""
        target = batch["target"]
        if "strong" not in target and not self._told and not self.hparams["source_only"]:
            self._told = True
            rank_zero_info(
                "Teacher and network see the same views of target images, for the callback WeakStrongAugmentation was "
                f"not given ({argument('callbacks', TRAINER)})."
            )
        return Domains(batch["source"]["image"], target.get("strong", target["image"]))

    def adaptation(self, batch: Batch, features: Domains, logits: Domains, weight: float) -> Output:
        """Return the cross-entropy of the network's answers with the teacher's that are sure enough."""
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
        teacher: Any = self.teacher.module
        logits: Tensor = teacher.head(teacher.backbone(images))
        return logits.float().softmax(1)

    def choose(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pseudo-labels (N,) of answers (N, K), and the mask (N,) of those to learn from."""
        threshold: float | Tensor = float(self.hparams["threshold"])
        if self.hparams["class_balance"]:
            threshold = class_thresholds(self.hparams["threshold"], self.class_share)
        return pseudo_labels(probabilities, threshold)

    def evaluation(self, batch: Batch, features: Tensor, logits: Tensor) -> Output:
        """Return the teacher's answers for target images, for the metrics."""
        if self.hparams["source_only"] or is_source(batch):
            return {}
        return {"teacher": self.teach(batch["image"])}

    def update_metrics(self, metrics: Any, output: Output) -> None:
        """Feed the teacher's answers to their metric, too."""
        super().update_metrics(metrics, output)
        if "teacher" in output:
            metrics["pseudo_labels"].update(*self.choose(output["teacher"]), output["target"])

    def after_step(self) -> None:
        """Move the weights of the teacher towards the network's; its BatchNorm statistics are its own."""
        if not self.hparams["source_only"]:
            self.teacher.update(self.hparams["teacher_decay"])
