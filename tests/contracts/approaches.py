"""Approaches as users write them: subclasses of `BaseModule` outside the library."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv import BaseModule
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
