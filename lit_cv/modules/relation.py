"""Relation networks: a learned comparison of query images with classes."""

from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import argument
from lit_cv.modules.feature_comparison import FeatureComparisonModule
from lit_cv.nn.relation import RelationHead

__all__ = ["RelationModule"]

_PAIRS = 1 << 14  # pairs compared at a time without gradients


class RelationModule(FeatureComparisonModule):
    """Learns features together with their comparison (Sung et al. 2018, "Learning to Compare: Relation Network").

    In a batch of episodes, each query image is paired with each class, represented by the mean feature map of its
    support images, and a small network scores the pair. The loss is the squared error of the score against 1 for the
    correct class and 0 for others, as published, or the cross-entropy over the classes. Unlike in the paper, the hidden
    layer of the small network uses a leaky ReLU (see `RelationHead`).

    Args:
        loss: `mse` of scores between 0 and 1, as published, or `cross_entropy` of their logits, which is two to three
            points better after 200 episodes of Omniglot.
        relation_width: Channels of the two convolutions in the comparing network.
        relation_hidden: Size of its hidden layer.
        **kwargs: Arguments of `FewShotModule` and `BaseModule`. The backbone needs a feature map: `conv4_2pool` (the
            default) downsamples fourfold, as published, `conv4` sixteenfold, which leaves little to compare.

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
        """Return the comparing network."""
        h, size = self.hparams, self.hparams["image_size"]
        if not self.backbone.has_feature_map:
            raise ValueError(
                f"{self.backbone.name} has no feature map to compare: use another {argument('backbone', self)}."
            )
        if size is None:
            raise ValueError("the image size is unknown, but the comparing network depends on it: set image_size.")
        height, width = (size, size) if isinstance(size, int) else size
        was_training = self.backbone.training
        with torch.no_grad():  # in eval mode, so that the blank image does not change BatchNorm statistics
            shape = self.backbone.eval().forward_features(torch.zeros(1, h["in_channels"], height, width)).shape
        self.backbone.train(was_training)
        return RelationHead(shape[1], (shape[2], shape[3]), h["relation_width"], h["relation_hidden"])

    def compiled_networks(self) -> list[nn.Module]:
        """Return none, since the backbone's feature map is used without its pooling."""
        return []

    def encode(self, images: Tensor) -> Tensor:
        """Return the feature maps (N, C, h, w) of raw images."""
        return self.backbone.forward_features(images)

    def compare(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Return the logits of the relation scores."""
        classes = classes.to(queries.dtype)
        if torch.is_grad_enabled():
            return cast(Tensor, self.head(classes, queries).float())
        # Without gradients a chunk of queries at a time saves memory.
        count = max(1, _PAIRS // (classes.shape[0] * classes.shape[1]))
        return torch.cat([self.head(classes, part).float() for part in torch.split(queries, count, 1)], 1)

    def episode_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error of the scores, or the cross-entropy."""
        if self.hparams["loss"] == "cross_entropy":
            return super().episode_loss(logits, target)
        correct = F.one_hot(target, logits.shape[-1])
        return F.mse_loss(logits.sigmoid(), correct.to(logits.dtype))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the class scores divided by their sum, or their softmax."""
        if self.hparams["loss"] == "cross_entropy":
            return super().probabilities(logits)
        return F.logsigmoid(logits.float()).softmax(-1)
