"""Approaches as users write them: subclasses of `BaseModule` outside the library."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv import BaseModule
from lit_cv.distributed import gather_batches, gather_with_gradient
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.nn import MovingAverage, cosine_decay


class BYOL(BaseModule):
    """Predicts the output of a moving average of the network for the mirrored image (Grill et al. 2020)."""

    uses_unlabeled: ClassVar[bool] = True

    def __init__(self, decay: float = 0.8, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Sequential(nn.Linear(num_features, 32), nn.ReLU(), nn.Linear(32, 16))

    def configure_networks(self) -> None:
        super().configure_networks()
        self.predictor = nn.Linear(16, 16)
        self.target = MovingAverage(nn.ModuleDict({"backbone": self.backbone, "head": self.head}))

    def step(self, batch: Batch, stage: Stage) -> Output:
        views = [batch["image"], batch["image"].flip(-1)]
        return {"loss": (self.distance(*views) + self.distance(*reversed(views))) / 2}

    def distance(self, view: Tensor, other: Tensor) -> Tensor:
        network: Any = self.target.module
        with torch.no_grad():
            expected = network.head(network.backbone(other))
        return 2 - 2 * F.cosine_similarity(self.predictor(self(view)).float(), expected.float()).mean()

    def after_step(self) -> None:
        steps = self.trainer.estimated_stepping_batches
        self.target.update(cosine_decay(self.hparams["decay"], self.global_step, steps))


class VICReg(BaseModule):
    """Makes the embeddings of two views similar, and their dimensions uncorrelated (Bardes et al. 2022)."""

    uses_unlabeled: ClassVar[bool] = True
    expects_views: ClassVar[bool] = True

    def __init__(
        self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Sequential(nn.Linear(num_features, 32), nn.ReLU(), nn.Linear(32, 16))

    def step(self, batch: Batch, stage: Stage) -> Output:
        views = batch["views"]
        embedding = self.head(self.backbone(views.flatten(0, 1))).float().unflatten(0, views.shape[:2])
        if stage == "train":
            embedding = gather_with_gradient(embedding.transpose(0, 1)).transpose(0, 1)
        invariance = F.mse_loss(embedding[0], embedding[1])
        centered = embedding - embedding.mean(1, keepdim=True)
        variance = F.relu(1 - (centered.square().mean(1) + 1e-4).sqrt()).mean()
        covariance = centered.mT @ centered / embedding.shape[1]
        off_diagonal = covariance - torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
        redundancy = off_diagonal.square().sum((1, 2)).mean() / embedding.shape[2]
        h = self.hparams
        loss = h["invariance"] * invariance + h["variance"] * variance + h["covariance"] * redundancy
        return {"loss": loss, "variance_loss": variance.detach(), "covariance_loss": redundancy.detach()}


class DINO(BaseModule):
    """Predicts the centered teacher's distribution for large crops from all crops (Caron et al. 2021)."""

    center: Tensor
    uses_unlabeled: ClassVar[bool] = True

    def __init__(self, decay: float = 0.9, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._teacher_means: list[Tensor] = []  # mean outputs of the teacher since the last optimizer step

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Linear(num_features, 16)

    def configure_networks(self) -> None:
        super().configure_networks()
        self.teacher = MovingAverage(nn.ModuleDict({"backbone": self.backbone, "head": self.head}))
        self.register_buffer("center", torch.zeros(16))

    def step(self, batch: Batch, stage: Stage) -> Output:
        large, small = batch["views"], batch["crops"]
        teacher: Any = self.teacher.module
        with torch.no_grad():
            teacher_logits = teacher.head(teacher.backbone(large.flatten(0, 1))).float()
        if stage == "train":
            self._teacher_means.append(gather_batches(teacher_logits).mean(0))
        target = ((teacher_logits - self.center) / 0.04).softmax(-1).unflatten(0, large.shape[:2])
        logits = torch.cat(
            [self(crops.flatten(0, 1)).float().unflatten(0, crops.shape[:2]) for crops in (large, small)]
        )
        logs = (logits / self.hparams["temperature"]).log_softmax(-1)
        terms = [-(t * logs[s]).sum(-1).mean() for i, t in enumerate(target) for s in range(len(logs)) if s != i]
        return {"loss": torch.stack(terms).mean()}

    def after_step(self) -> None:
        self.teacher.update(self.hparams["decay"])
        if self._teacher_means:
            self.center.lerp_(torch.stack(self._teacher_means).mean(0), 1 - self.hparams["decay"])
        self._teacher_means = []
