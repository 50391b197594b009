"""LeJEPA: learning features from unlabeled images, with embeddings that follow a normal distribution."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_cv.losses import sigreg
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.views import ViewsModule

__all__ = ["LeJEPAModule"]


class LeJEPAModule(ViewsModule):
    """Learns a backbone from unlabeled images (Balestriero and LeCun 2025, "LeJEPA").

    From a batch with `views` (V, N, C, H, W), and `local_views` (L, N, C, h, w) if there are any, it computes
    embeddings. The embedding of each view has to equal the mean embedding of the image's `views`. SIGReg keeps the
    embeddings of a batch distributed as a standard normal, which prevents a collapse without a teacher, a stop-gradient
    or negatives. All views of a size are encoded in one pass, as in the authors' code.

    It logs `{stage}_loss` and its terms, not weighted: `prediction_loss` and `sigreg_loss`. The loss falls as the
    features become better, and allows comparing runs with the same views.

    Args:
        sigreg_weight: Weight of SIGReg, between 0 and 1; that of the prediction is 1 minus it.
        directions: Number of random directions of SIGReg, drawn anew in each step.
        projector_layers: Number of linear layers of the projector.
        projector_hidden: Width of its hidden layers.
        projector_dim: Dimension of the embeddings.
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> module = LeJEPAModule(backbone="conv4", in_channels=1)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 128])
    """

    one_pass: ClassVar[bool] = True
    uses_local_views: ClassVar[bool] = True

    def __init__(
        self,
        sigreg_weight: float = 0.05,
        directions: int = 1024,
        projector_layers: int = 3,
        projector_hidden: int = 2048,
        projector_dim: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.check_range("sigreg_weight", 0, 1)
        self.check_range("directions", 0)

    def compare(self, views: Tensor, batch: Batch, stage: Stage) -> Output:
        """Return the loss and its terms."""
        features = self.encode(self.backbone, views)
        embeddings = self.encode(self.head, features).float()
        center = embeddings.mean(0)
        if "local_views" in batch:
            local = self.encode(self, batch["local_views"]).float()
            embeddings = torch.cat([embeddings, local])
        prediction = (embeddings - center).square().mean()
        regularity = sigreg(embeddings, self._directions(embeddings, stage), gather=stage == "train")
        weight = self.hparams["sigreg_weight"]
        loss = (1 - weight) * prediction + weight * regularity
        return {
            "loss": loss,
            "prediction_loss": prediction.detach(),
            "sigreg_loss": regularity.detach(),
            "embedding": features.detach(),
        }

    def _directions(self, embeddings: Tensor, stage: Stage) -> Tensor:
        """Return directions that are the same on all ranks, and in all evaluations."""
        generator = torch.Generator(embeddings.device).manual_seed(self.global_step if stage == "train" else 0)
        shape = (embeddings.shape[-1], self.hparams["directions"])
        return torch.randn(shape, generator=generator, device=embeddings.device)
