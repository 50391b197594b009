"""Relation networks: a learnt comparison of a query image with a class."""

from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import argument
from lit_cv.modules.feature_comparison import FeatureComparisonModule
from lit_cv.nn.relation import RelationHead

__all__ = ["RelationModule"]

_PAIRS = 1 << 14  # compared at a time where no gradient is wanted


class RelationModule(FeatureComparisonModule):
    """Learns features and their comparison together (Sung et al. 2018, "Learning to Compare: Relation Network").

    From a batch of episodes, each query image is paired with each class, the mean feature map of its support images,
    and a small network scores the pair. The loss is the squared error of the score against 1 for the right class and
    0 for the others, as published, or the cross-entropy over the classes. Unlike there, the hidden layer of the small
    network is leaky (see `RelationHead`).

    Args:
        loss: `mse`, of scores between 0 and 1, as published, or `cross_entropy`, of their logits: two to three points
            more after 200 episodes of Omniglot.
        relation_width: Channels of the two convolutions that compare.
        relation_hidden: Size of the hidden layer behind them.
        **kwargs: Arguments of `FewShotModule` and `BaseModule`. The backbone needs a feature map: `conv4_2pool` (the
            default) shrinks the image fourfold, as published, `conv4` sixteenfold, which leaves little to compare.

    Example:
        >>> module = RelationModule(in_channels=1, image_size=28)
        >>> images = torch.rand(6, 1, 28, 28)
        >>> module.adapt(images, torch.tensor([0, 0, 1, 1, 2, 2])).predict_proba(images).shape
        torch.Size([6, 3])
    """

    default_backbone: ClassVar[str] = "conv4_2pool"

    def __init__(
        self,
        loss: Literal["mse", "cross_entropy"] = "mse",
        relation_width: int = 64,
        relation_hidden: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the network that compares."""
        h, size = self.hparams, self.hparams["image_size"]
        if not self.backbone.has_feature_map:
            raise ValueError(
                f"{self.backbone.name} has no feature map to compare: choose another {argument('backbone', self)}."
            )
        if size is None:
            raise ValueError("the comparing network is made for one size of images: give image_size.")
        height, width = (size, size) if isinstance(size, int) else size
        was_training = self.backbone.training
        with torch.no_grad():  # in evaluation mode, so that BatchNorm does not see the blank image
            shape = self.backbone.eval().forward_features(torch.zeros(1, h["in_channels"], height, width)).shape
        self.backbone.train(was_training)
        return RelationHead(shape[1], (shape[2], shape[3]), h["relation_width"], h["relation_hidden"])

    def compiled_networks(self) -> list[nn.Module]:
        """Return none: the backbone's feature map is taken, not what it pools."""
        return []

    def encode(self, images: Tensor) -> Tensor:
        """Return the feature maps (N, C, h, w) of raw images."""
        return self.backbone.forward_features(images)

    def compare(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Return the logits of the relation scores."""
        classes = classes.to(queries.dtype)
        if torch.is_grad_enabled():
            return cast(Tensor, self.head(classes, queries).float())
        # Without a gradient nothing is kept, and a part of the queries at a time suffices.
        count = max(1, _PAIRS // (classes.shape[0] * classes.shape[1]))
        return torch.cat([self.head(classes, part).float() for part in torch.split(queries, count, 1)], 1)

    def episode_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error of the scores, or the cross-entropy."""
        if self.hparams["loss"] == "cross_entropy":
            return super().episode_loss(logits, target)
        right = F.one_hot(target, logits.shape[-1])
        return F.mse_loss(logits.sigmoid(), right.to(logits.dtype))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the scores of the classes as shares of their sum, or the softmax."""
        if self.hparams["loss"] == "cross_entropy":
            return super().probabilities(logits)
        return F.logsigmoid(logits.float()).softmax(-1)
