"""SimCLR: learning features from unlabeled images, by matching views of the same image."""

from typing import Any, ClassVar

from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.losses.nt_xent import counted_nt_xent
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.views import ViewsModule
from lit_cv.nn import Projector

__all__ = ["SimCLRModule"]


class SimCLRModule(ViewsModule):
    """Learns a backbone from unlabeled images (Chen et al. 2020, "A Simple Framework for Contrastive Learning").

    From a batch with `views` (V, N, C, H, W), which the callback `ContrastiveAugmentation` makes from `image`, it
    encodes all views in one pass, projects the features and minimizes NT-Xent: each view has to find the other
    views of its image among all views of the batch on all devices. The projector is only used in the loss; the trained
    model is the backbone (`embed`). `label` (N,) int64, -1 if unknown, is only used with `supervised`.

    It logs `{stage}_loss`; in validation the negatives come from the batch of one rank.

    The loss has 2 N - 2 negatives for a batch of N images on all devices, and more of them help. Gradient
    accumulation does not add any: it averages the gradients of small batches, each with its own few negatives.
    Memory for the loss grows linearly with N, so that only the backbone limits the batch size.

    Args:
        temperature: Divisor of the similarities; the paper uses 0.1 for ImageNet, 0.5 for CIFAR-10.
        projector_layers: Number of linear layers of the projector.
        projector_hidden: Width of its hidden layers; `None` takes that of the features.
        projector_dim: Dimension of the projections.
        projector_norm: Whether BatchNorm follows each of its layers.
        supervised: Whether images with the same label are also positives, as in SupCon (Khosla et al. 2020).
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> import torch
        >>> module = SimCLRModule(backbone="conv4", in_channels=1)
        >>> images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
        >>> module(images).shape, module.embed(images).shape
        (torch.Size([2, 128]), torch.Size([2, 64]))
    """

    one_pass: ClassVar[bool] = True
    min_views: ClassVar[int] = 1  # SupCon's positives may be other images

    def __init__(
        self,
        temperature: float = 0.5,
        projector_layers: int = 2,
        projector_hidden: int | None = None,
        projector_dim: int = 128,
        projector_norm: bool = True,
        supervised: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not temperature > 0:
            raise OptionError(self, "temperature", temperature, "must be positive")

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the projector."""
        h = self.hparams
        return Projector(
            num_features, h["projector_hidden"], h["projector_dim"], h["projector_layers"], h["projector_norm"]
        )

    def compare(self, views: Tensor, batch: Batch, stage: Stage) -> Output:
        """Return the loss, and the number of views that it is the mean of."""
        features = self.encode(self.backbone, views)
        projections = self.encode(self.head, features)
        labels = batch["label"] if self.hparams["supervised"] else None
        # Ranks may validate different numbers of batches, so validation must not synchronize them.
        loss, count = counted_nt_xent(projections, self.hparams["temperature"], labels, gather=stage == "train")
        return {"loss": loss, "counts": {"loss": count / len(views)}, "embedding": features.detach()}
