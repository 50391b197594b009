"""Base of approaches that learn from random views of the same image, without labels."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_cv.distributed import is_distributed
from lit_cv.errors import DATA, TRAINER, OptionError, argument
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.nn import Projector

__all__ = ["ViewsModule"]


class ViewsModule(BaseModule):
    """Base of approaches that learn a backbone from random views of unlabeled images.

    A subclass encodes the views of a batch in `compare`, and returns its loss. Validation uses the same
    views in every epoch. `EmbeddingEvaluation`, which the command line adds, evaluates the features: it logs
    `val_knn_acc`, which becomes the `monitor` if images have labels, and measures of collapse.

    Args:
        **kwargs: Arguments of `BaseModule`.

    Attributes:
        one_pass: Whether networks see all views in one pass, so that BatchNorm's statistics cover all of them, or each
            view in a pass of its own. Each approach does what its paper does.
        uses_local_views: Whether the loss uses `local_views`.
        min_views: Smallest number of `views` that the loss compares.
    """

    uses_unlabeled: ClassVar[bool] = True
    expects_views: ClassVar[bool] = True
    evaluates_embedding: ClassVar[bool] = True
    one_pass: ClassVar[bool] = False
    uses_local_views: ClassVar[bool] = False
    min_views: ClassVar[int] = 2

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("projector_layers", "projector_hidden", "projector_dim"):
            value = self.hparams.get(name)
            if value is not None and value < 1:
                raise OptionError(self, name, value, "must be at least 1")

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a projector of the sizes in `hparams`, by default two layers of BYOL's form."""
        h = self.hparams
        layers, hidden, dim = h.get("projector_layers", 2), h.get("projector_hidden"), h.get("projector_dim", 128)
        return Projector(num_features, hidden, dim, layers, last_norm="none")

    @abstractmethod
    def compare(self, views: Tensor, batch: Batch, stage: Stage) -> Output:
        """Encode the views, and return `loss`, further scalars to log, and `embedding` for callbacks.

        Args:
            views: (V, N, C, H, W), V >= 2 views of N images.
            batch: The batch, which also holds `local_views` (L, N, C, h, w) if there are small ones.
            stage: `train`, `val` or `test`.

        Returns:
            `embedding` holds the detached features (V', N, num_features) of all or the first views.
        """

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Check that there are views of at least two images, and compare them."""
        views = batch.get("views")
        if not isinstance(views, Tensor) or views.ndim != 5:
            raise ValueError(
                f"{type(self).__name__} needs batches with `views` (V, N, C, H, W) of the images: add the callback "
                f"ContrastiveAugmentation to the Trainer ({argument('callbacks', TRAINER)})."
            )
        if stage == "train" and views.shape[1] < 2 and not is_distributed():
            raise ValueError(
                f"a batch of one image has no others to compare it with: raise {argument('batch_size', DATA)}."
            )
        if len(views) < self.min_views:
            raise ValueError(
                f"{type(self).__name__} compares {self.min_views} views of each image, but its batches hold "
                f"{len(views)}: raise n_views of ContrastiveAugmentation."
            )
        if "local_views" in batch and not self.uses_local_views:
            raise ValueError(
                f"{type(self).__name__} has no use for local views, which its batches hold: set local_views=0 of "
                "ContrastiveAugmentation, or choose an approach that compares them, such as DINO."
            )
        return self.compare(views, batch, stage)

    def encode(self, network: nn.Module | Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        """Return the outputs (V, N, ...) of a network for views (V, N, ...), in one pass or one pass per view."""
        if self.one_pass:
            outputs: Tensor = network(views.flatten(0, 1))
            return outputs.view(*views.shape[:2], *outputs.shape[1:])
        return torch.stack([network(view) for view in views])

    def check_range(self, name: str, low: float, high: float = float("inf")) -> None:
        """Raise an error that names a hyperparameter unless it is above `low` and at most `high`."""
        value = self.hparams[name]
        if not low < value <= high:
            allowed = f"must be above {low:g}" + (f" and at most {high:g}" if high < float("inf") else "")
            raise OptionError(self, name, value, allowed)
