"""Barlow Twins: learning features from unlabeled images, with embeddings free of redundancy."""

from typing import Any

from torch import Tensor

from lit_cv.losses import barlow_twins_terms
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.views import ViewsModule

__all__ = ["BarlowTwinsModule"]


class BarlowTwinsModule(ViewsModule):
    """Learns a backbone from unlabeled images (Zbontar et al. 2021, "Barlow Twins").

    From the first two `views` (V, N, C, H, W) of a batch it computes embeddings. Over the batch, each dimension has to
    be the same in both views (invariance), and not correlated with the others (redundancy). It needs no negatives and
    no large batch. BatchNorm sees each view in a pass of its own, as in the authors' code.

    It logs `{stage}_loss` and its terms, not weighted: `invariance_loss` and `redundancy_loss`.

    Args:
        redundancy_weight: Weight of the redundancy.
        loss_scale: Factor of the loss, for the learning rate of `lars` (1/40 in the authors' code for ImageNet).
        projector_layers: Number of linear layers of the projector (3 in the paper).
        projector_hidden: Width of its hidden layers (8192 in the paper).
        projector_dim: Dimension of the embeddings (8192 in the paper); fewer work less well.
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> import torch
        >>> module = BarlowTwinsModule(backbone="conv4", in_channels=1, projector_dim=256)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 256])
    """

    def __init__(
        self,
        redundancy_weight: float = 0.005,
        loss_scale: float = 1.0,
        projector_layers: int = 3,
        projector_hidden: int = 2048,
        projector_dim: int = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.check_range("redundancy_weight", 0)
        self.check_range("loss_scale", 0)

    def compare(self, views: Tensor, batch: Batch, stage: Stage) -> Output:
        """Return the loss and its terms."""
        features = self.encode(self.backbone, views[:2])
        first, second = self.encode(self.head, features)
        invariance, redundancy = barlow_twins_terms(first, second, gather=stage == "train")
        loss = self.hparams["loss_scale"] * (invariance + self.hparams["redundancy_weight"] * redundancy)
        return {
            "loss": loss,
            "invariance_loss": invariance.detach(),
            "redundancy_loss": redundancy.detach(),
            "embedding": features.detach(),
        }
