"""SimCLR: learning features from unlabeled images, by matching views of the same image."""

from typing import Any, ClassVar

from torch import Tensor, nn

from lit_cv.distributed import is_distributed
from lit_cv.errors import DATA, TRAINER, OptionError, argument
from lit_cv.losses.nt_xent import counted_nt_xent
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.nn import Projector

__all__ = ["SimCLRModule"]


class SimCLRModule(BaseModule):
    """Learns a backbone from unlabeled images (Chen et al. 2020, "A Simple Framework for Contrastive Learning").

    From a batch with `views` (V, N, C, H, W), which the callback `ContrastiveAugmentation` makes from `image`, it
    encodes all views in one pass, projects the features and minimizes NT-Xent: each view has to find the other
    views of its image among all views of the batch on all devices. The projector is only used in the loss; the trained
    model is the backbone (`embed`). `label` (N,) int64, -1 if unknown, is only used with `supervised`.

    It logs `{stage}_loss`. In validation it uses the same views in every epoch, and negatives from the batch of one
    rank. `EmbeddingEvaluation`, which the command line adds, evaluates the features: it logs `val_knn_acc`, which
    becomes the `monitor` if images have labels, and measures of collapse.

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

    uses_unlabeled: ClassVar[bool] = True
    expects_views: ClassVar[bool] = True
    evaluates_embedding: ClassVar[bool] = True

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

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Encode all views in one pass and compute the loss; also return `embedding` (V, N, D) for callbacks."""
        views = batch.get("views")
        if not isinstance(views, Tensor) or views.ndim != 5:
            raise ValueError(
                f"{type(self).__name__} needs batches with `views` (V, N, C, H, W) of the images: add the callback "
                f"ContrastiveAugmentation to the Trainer ({argument('callbacks', TRAINER)})."
            )
        if stage == "train" and views.shape[1] < 2 and not is_distributed():
            raise ValueError(
                f"a batch of one image has no negatives to compare it with: raise {argument('batch_size', DATA)}."
            )
        # In separate passes BatchNorm would normalize each view by its own statistics.
        features = self.backbone(views.flatten(0, 1))
        projections = self.head(features).unflatten(0, views.shape[:2])
        labels = batch["label"] if self.hparams["supervised"] else None
        # Ranks may validate different numbers of batches, so validation must not synchronize them.
        loss, count = counted_nt_xent(projections, self.hparams["temperature"], labels, gather=stage == "train")
        embedding = features.detach().unflatten(0, views.shape[:2])
        return {"loss": loss, "embedding": embedding, "counts": {"loss": count / len(views)}}
