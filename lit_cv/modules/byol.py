"""BYOL: learning features from unlabeled images, by predicting a moving average of the own network."""

from typing import Any

from torch import Tensor

from lit_cv.losses import cosine_loss
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.views import ViewsModule
from lit_cv.nn import BackboneAndHead, MovingAverage, Projector, cosine_decay

__all__ = ["BYOLModule"]


class BYOLModule(ViewsModule):
    """Learns a backbone from unlabeled images (Grill et al. 2020, "Bootstrap your own latent").

    The network predicts, from each of the first two `views` (V, N, C, H, W) of a batch, the projection of the other
    view by the target network, a moving average of itself, which gets no gradient. It needs no negatives and works with
    small batches. BatchNorm sees each view in a pass of its own, in both networks, as in the authors' code. The paper's
    views differ: `ContrastiveAugmentation(blur=[1.0, 0.1], solarize=[0.0, 0.2])`.

    It logs `{stage}_loss`, the sum over both views, from 0 to 8. `FILE:target` loads the target's backbone from a
    checkpoint.

    Args:
        decay: Decay of the moving average at the first step; it rises to 1 along a cosine. The paper uses 0.996 for
            1,000 epochs, 0.99 for 300.
        projector_hidden: Width of the hidden layer of projector and predictor.
        projector_dim: Dimension of the projections.
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> import torch
        >>> module = BYOLModule(backbone="conv4", in_channels=1)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 256])
    """

    def __init__(
        self, decay: float = 0.996, projector_hidden: int = 4096, projector_dim: int = 256, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.check_range("decay", 0, 1)

    def configure_networks(self) -> None:
        """Build the predictor and the target network, a copy without predictor."""
        super().configure_networks()
        dim = self.hparams["projector_dim"]
        self.predictor = Projector(dim, self.hparams["projector_hidden"], dim, last_norm="none")
        self.target = MovingAverage(BackboneAndHead(self.backbone, self.head))

    def compare(self, views: Tensor, batch: Batch, stage: Stage) -> Output:
        """Return the loss of predicting each view's projection from the other view."""
        features = self.encode(self.backbone, views[:2])
        targets = self.encode(self.target, views[:2])
        predictions = self.encode(lambda part: self.predictor(self.head(part)), features)
        return {
            "loss": cosine_loss(predictions[0], targets[1]) + cosine_loss(predictions[1], targets[0]),
            "embedding": features.detach(),
        }

    def after_step(self) -> None:
        """Move the target toward the network."""
        steps = self.trainer.estimated_stepping_batches
        self.target.update(cosine_decay(self.hparams["decay"], self.global_step, steps))
