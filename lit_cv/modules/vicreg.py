"""VICReg: learning features from unlabeled images, with embeddings that vary and do not repeat themselves."""

from typing import Any

from torch import Tensor

from lit_cv.errors import OptionError
from lit_cv.losses import vicreg_terms
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.views import ViewsModule

__all__ = ["VICRegModule"]


class VICRegModule(ViewsModule):
    """Learns a backbone from unlabeled images (Bardes, Ponce and LeCun 2022, "VICReg").

    From a batch with `views` (V, N, C, H, W) it computes embeddings, which have to be similar for views of an image
    (invariance). What prevents a collapse is explicit: the standard deviation of each dimension over the batch is kept
    above 1 (variance), and different dimensions are decorrelated (covariance). It needs no negatives and no large
    batch. BatchNorm sees each view in a pass of its own, as in the authors' code.

    It logs `{stage}_loss` and its terms, not weighted: `invariance_loss`, `variance_loss`, `covariance_loss`.

    Args:
        invariance_weight: Weight of the invariance.
        variance_weight: Weight of the variance.
        covariance_weight: Weight of the covariance.
        projector_layers: Number of linear layers of the projector (3 in the paper).
        projector_hidden: Width of its hidden layers (8192 in the paper).
        projector_dim: Dimension of the embeddings (8192 in the paper); fewer work less well.
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> import torch
        >>> module = VICRegModule(backbone="conv4", in_channels=1, projector_dim=256)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 256])
    """

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        projector_layers: int = 3,
        projector_hidden: int = 2048,
        projector_dim: int = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name in ("invariance_weight", "variance_weight", "covariance_weight"):
            if not self.hparams[name] >= 0:
                raise OptionError(self, name, self.hparams[name], "must be at least 0")

    def compare(self, views: Tensor, batch: Batch, stage: Stage) -> Output:
        """Return the loss and its terms."""
        features = self.encode(self.backbone, views)
        terms = vicreg_terms(self.encode(self.head, features), gather=stage == "train")
        names = ("invariance", "variance", "covariance")
        loss = sum(self.hparams[f"{name}_weight"] * term for name, term in zip(names, terms, strict=True))
        return {
            "loss": loss,
            **{f"{name}_loss": term.detach() for name, term in zip(names, terms, strict=True)},
            "embedding": features.detach(),
        }
