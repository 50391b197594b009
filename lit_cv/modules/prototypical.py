"""Prototypical networks: a class is represented by the mean features of its examples."""

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import OptionError, setting
from lit_cv.modules.feature_comparison import FeatureComparisonModule

__all__ = ["PrototypicalModule"]


class PrototypicalModule(FeatureComparisonModule):
    """Learns features in which the nearest class mean predicts the class (Snell et al. 2017, "Prototypical Networks").

    From a batch of episodes it minimizes the cross-entropy of the query images. Their logits are the negative distances
    to the mean features of the support images (the prototypes), times a scale that is learned with the features.

    Train with more classes per episode than in the test (`way=20` of the data or more): the harder task leads to better
    features (section 3.2 of the paper). Without any training (`lit-cv test --config nearest_centroid --model.weights
    FILE`) this is the nearest-centroid classifier on the features of a checkpoint.

    Args:
        distance: `squared_euclidean` as published, `euclidean`, its root, or `cosine`.
        scale: Initial factor of distances or cosines. `None` means 1 as published, 0.03 for squared distances of
            flattened maps, which are large, and 10 for cosines.
        learn_scale: Whether the scale is learned.
        flatten: Whether features are the flattened feature map (C h w) instead of its mean over the image (C), which
            keeps positions. `None` does so for `conv4`, as published.
        **kwargs: Arguments of `FewShotModule` and `BaseModule`.

    Example:
        >>> module = PrototypicalModule(in_channels=1)
        >>> images = torch.zeros(1, 10, 1, 28, 28, dtype=torch.uint8)
        >>> labels = torch.arange(5).repeat(2)[None]
        >>> part = {"image": images, "label": labels}
        >>> module.configure_model()
        >>> sorted(module.step({"support": part, "query": part}, "train"))
        ['acc', 'loss']
    """

    def __init__(
        self,
        distance: Literal["squared_euclidean", "euclidean", "cosine"] = "squared_euclidean",
        scale: float | None = None,
        learn_scale: bool = True,
        flatten: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if scale is not None and not scale > 0:
            raise OptionError(self, "scale", scale, "must be positive")

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the layer that scales the logits."""
        h = self.hparams
        if h["flatten"] is None:
            h["flatten"] = h["backbone"].startswith("conv4")
        if h["flatten"] and not self.backbone.has_feature_map:
            raise ValueError(
                f"{self.backbone.name} has no feature map to flatten: set {setting('flatten', False, self)}."
            )
        squared = 0.03 if h["flatten"] else 1.0
        default = {"squared_euclidean": squared, "euclidean": 1.0, "cosine": 10.0}
        return _Scale(h["scale"] or default[h["distance"]], h["learn_scale"])

    def compiled_networks(self) -> list[nn.Module]:
        """Return the backbone if its pooled features are used."""
        return [] if self.hparams["flatten"] else super().compiled_networks()

    def encode(self, images: Tensor) -> Tensor:
        """Return the features (N, D) of raw images."""
        if self.hparams["flatten"]:
            return self.backbone.forward_features(images).flatten(1)
        return self.embed(images)

    def compare(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Return the negative scaled distances, or the scaled cosines, in float32."""
        with torch.autocast(queries.device.type, enabled=False):
            return cast(Tensor, self.head(_similarity(classes.float(), queries.float(), self.hparams["distance"])))


def _similarity(classes: Tensor, queries: Tensor, distance: str) -> Tensor:
    """Return the negative distances, or the cosines, (B, Q, N)."""
    if distance == "cosine":
        return F.normalize(queries, dim=-1) @ F.normalize(classes, dim=-1).transpose(1, 2)
    lengths = queries.square().sum(-1, keepdim=True) + classes.square().sum(-1)[:, None]
    squared = torch.baddbmm(lengths, queries, classes.transpose(1, 2), alpha=-2)
    return -squared.clamp_min(1e-6).sqrt() if distance == "euclidean" else -squared  # sqrt has no gradient at 0


class _Scale(nn.Module):
    """Multiplication by a positive number."""

    def __init__(self, start: float, learned: bool) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)), requires_grad=learned)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log_scale.exp()
