"""Prototypical networks: a class is the mean of its examples."""

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.errors import OptionError, setting
from lit_cv.modules.feature_comparison import FeatureComparisonModule

__all__ = ["PrototypicalModule"]


class PrototypicalModule(FeatureComparisonModule):
    """Learns features in which the nearest mean tells the class (Snell et al. 2017, "Prototypical Networks").

    From a batch of episodes it minimises the cross-entropy of the query images, whose logits are minus the distances
    to the means of the support images (the prototypes), times a scale that is learnt with the features.

    Train with more classes an episode than the test has (`way=20` of the data and more): the harder task makes better
    features (section 3.2 of the paper). Without any training (`lit-cv test --config nearest_centroid --model.weights
    FILE`) this is the nearest-centroid classifier on the features of a checkpoint.

    Args:
        distance: `squared_euclidean` as published, `euclidean`, its root, or `cosine`.
        scale: What distances, or cosines, are multiplied by at the start. `None` takes 1 as published, 0.03 for squared
            distances of flattened maps, which are long, and 10 for cosines.
        learn_scale: Whether the scale is learnt.
        flatten: Whether features are the whole feature map (C h w) rather than its mean over the image (C): they
            tell where things are, too. `None` does so for `conv4`, as published.
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
            raise OptionError(self, "scale", scale, "it must be positive")

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the scale of the logits."""
        h = self.hparams
        if h["flatten"] is None:
            h["flatten"] = h["backbone"].startswith("conv4")
        if h["flatten"] and not self.backbone.has_feature_map:
            raise ValueError(
                f"{self.backbone.name} has no feature map to flatten: set {setting('flatten', False, self)}."
            )
        squared = 0.03 if h["flatten"] else 1.0
        usual = {"squared_euclidean": squared, "euclidean": 1.0, "cosine": 10.0}
        return _Scale(h["scale"] or usual[h["distance"]], h["learn_scale"])

    def compiled_networks(self) -> list[nn.Module]:
        """Return the backbone where its pooled features are taken."""
        return [] if self.hparams["flatten"] else super().compiled_networks()

    def encode(self, images: Tensor) -> Tensor:
        """Return the features (N, D) of raw images."""
        if self.hparams["flatten"]:
            return self.backbone.forward_features(images).flatten(1)
        return self.embed(images)

    def compare(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Return minus the scaled distances, or the scaled cosines, in float32."""
        with torch.autocast(queries.device.type, enabled=False):
            return cast(Tensor, self.head(_similarity(classes.float(), queries.float(), self.hparams["distance"])))


def _similarity(classes: Tensor, queries: Tensor, distance: str) -> Tensor:
    """Return minus the distances, or the cosines, (B, Q, N)."""
    if distance == "cosine":
        return F.normalize(queries, dim=-1) @ F.normalize(classes, dim=-1).transpose(1, 2)
    lengths = queries.square().sum(-1, keepdim=True) + classes.square().sum(-1)[:, None]
    squared = torch.baddbmm(lengths, queries, classes.transpose(1, 2), alpha=-2)
    return -squared.clamp_min(1e-6).sqrt() if distance == "euclidean" else -squared  # the root has no slope at 0


class _Scale(nn.Module):
    """Multiplies by a positive number."""

    def __init__(self, start: float, learnt: bool) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)), requires_grad=learnt)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log_scale.exp()
