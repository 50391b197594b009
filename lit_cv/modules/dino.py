"""DINO: learning features from unlabeled images, by self-distillation between views of different sizes."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_cv.distributed import gather_batches
from lit_cv.losses import self_distillation_loss, sinkhorn_assignments
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.views import ViewsModule
from lit_cv.nn import BackboneAndHead, MovingAverage, PrototypeHead, cosine_decay

__all__ = ["DINOModule"]


class DINOModule(ViewsModule):
    """Learns a backbone from unlabeled images (Caron et al. 2021, "Emerging Properties in Self-Supervised ViTs").

    A teacher, a moving average of the network, assigns the `views` (V, N, C, H, W) of a batch to prototypes. The
    network predicts the assignment of each view from each other view of the image, including small `local_views` (L, N,
    C, h, w). The paper uses 2 views of 40 to 100 % of the image and 8 local ones:
    `ContrastiveAugmentation(min_scale=0.4, local_views=8)`. Two things prevent a collapse: a low temperature of the
    teacher, and centering, the subtraction of the mean logits, or Sinkhorn's algorithm. All views of a size are encoded
    in one pass, as in the authors' code. The callback `WeightDecaySchedule` raises the weight decay as in the paper.

    It logs `{stage}_loss`. `FILE:teacher` loads the teacher's backbone from a checkpoint, usually the better one.

    Args:
        prototypes: Number of prototypes.
        hidden: Width of the head's hidden layers.
        bottleneck: Dimension of the vectors that are compared with prototypes.
        temperature: Divisor of the network's logits.
        teacher_temperature: Divisor of the teacher's logits after the warm-up, and always in validation, so that the
            losses of epochs can be compared.
        warmup_teacher_temperature: The same at the first epoch of a warm-up, from which it changes linearly.
        teacher_warmup_epochs: Epochs of this warm-up; 0 for none.
        assignment: `centering`, or `sinkhorn` as in DINOv2.
        center_decay: Decay of the moving average of the teacher's logits.
        decay: Decay of the teacher at the first step; it rises to 1 along a cosine. Use 0.9995 for small batches.
        freeze_prototypes_epochs: Epochs at the start in which the prototypes are not trained.
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> module = DINOModule(backbone="conv4", in_channels=1, prototypes=100)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 100])
    """

    one_pass: ClassVar[bool] = True
    uses_local_views: ClassVar[bool] = True
    center: Tensor

    def __init__(
        self,
        prototypes: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_teacher_temperature: float = 0.04,
        teacher_warmup_epochs: int = 0,
        assignment: Literal["centering", "sinkhorn"] = "centering",
        center_decay: float = 0.9,
        decay: float = 0.996,
        freeze_prototypes_epochs: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name in ("temperature", "teacher_temperature", "warmup_teacher_temperature"):
            self.check_range(name, 0)
        for name in ("decay", "center_decay"):
            self.check_range(name, 0, 1)
        self._means: list[Tensor] = []  # of the teacher's logits, since the last optimizer step

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the head of prototypes."""
        h = self.hparams
        return PrototypeHead(num_features, h["hidden"], h["bottleneck"], h["prototypes"])

    def configure_networks(self) -> None:
        """Build the teacher and the center of its logits."""
        super().configure_networks()
        self.teacher = MovingAverage(BackboneAndHead(self.backbone, self.head))
        self.register_buffer("center", torch.zeros(self.hparams["prototypes"]))

    def compare(self, views: Tensor, batch: Batch, stage: Stage) -> Output:
        """Return the loss of predicting the teacher's assignments."""
        features = self.encode(self.backbone, views)
        logits = self.encode(self.head, features)
        if "local_views" in batch:
            logits = torch.cat([logits, self.encode(self, batch["local_views"])])
        return {
            "loss": self_distillation_loss(logits, self._assign(views, stage), self.hparams["temperature"]),
            "embedding": features.detach(),
        }

    @torch.no_grad()
    def _assign(self, views: Tensor, stage: Stage) -> Tensor:
        """Return the teacher's probabilities (V, N, prototypes)."""
        logits = self.encode(self.teacher, views).float()
        if stage == "train":
            self._means.append(gather_batches(logits.mean((0, 1), keepdim=True)).mean((0, 1)))
        h = self.hparams
        first, last, epochs = h["warmup_teacher_temperature"], h["teacher_temperature"], h["teacher_warmup_epochs"]
        share = max(0.0, 1 - self.current_epoch / epochs) if stage == "train" and epochs else 0.0
        temperature = last + share * (first - last)
        if h["assignment"] == "sinkhorn":
            return torch.stack([sinkhorn_assignments(part / temperature, gather=stage == "train") for part in logits])
        probabilities: Tensor = ((logits - self.center) / temperature).softmax(-1)
        return probabilities

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Discard the gradient of prototypes that are not trained yet.

        The weight decay of `adamw`, `sgd` and `lars` shrinks them, but does not change their direction.
        """
        if self.current_epoch < self.hparams["freeze_prototypes_epochs"]:
            head: Any = self.head
            head.prototypes.grad.zero_()

    def after_step(self) -> None:
        """Move the teacher toward the network, and the center toward the mean of its logits."""
        steps = self.trainer.estimated_stepping_batches
        self.teacher.update(cosine_decay(self.hparams["decay"], self.global_step, steps))
        if self._means:
            self.center.lerp_(torch.stack(self._means).mean(0), 1 - self.hparams["center_decay"])
        self._means = []
