"""Base class of few-shot approaches that compare query images with classes by features."""

from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from lit_cv.contracts import data_extras, datamodule_of
from lit_cv.modules.base import Batch, Stage
from lit_cv.modules.few_shot import FewShotModule

__all__ = ["FeatureComparisonModule"]

_BATCH = 512  # images encoded at a time without gradients


class FeatureComparisonModule(FewShotModule):
    """Base of approaches that represent a class by the mean features of its support images.

    In training the support and query images of all episodes of a batch are encoded in one pass. In evaluation each
    image is encoded once, and episodes use the stored features. This gives the same result, since in evaluation mode
    the features of an image do not depend on other images.

    A subclass implements `encode` and `compare`.
    """

    compares_features: ClassVar[bool] = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tables: dict[str, Tensor] = {}  # features of the evaluation images
        self._classes: Tensor | None = None  # representations of the classes from `adapt`

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return the features (N, ...) of raw images (N, C, H, W)."""

    @abstractmethod
    def compare(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Return logits (B, Q, N) for classes (B, N, ...) and features of query images (B, Q, ...)."""

    def represent(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        """Return the mean features (B, way, ...) of each class, in float32.

        Args:
            features: (B, S, ...).
            labels: (B, S) from 0 to way - 1.
            way: Number of classes.
        """
        return self.average(features, torch.nn.functional.one_hot(labels, way).to(torch.float32))

    def average(self, features: Tensor, members: Tensor) -> Tensor:
        """Return the mean features (B, way, ...) of each class for `members` (B, S, way), 1 where images belong."""
        weights = members.transpose(1, 2)
        with torch.autocast(features.device.type, enabled=False):
            sums = torch.bmm(weights, features.float().flatten(2))
            return torch.unflatten(sums / weights.sum(2, keepdim=True), 2, features.shape[2:])

    def episode_logits(self, batch: Batch, way: int, stage: Stage) -> Tensor:
        """Encode the images, or look up their features, and compare queries with classes."""
        support, query = batch["support"], batch["query"]
        if "image" in support or not self._tables:
            count, shots = support["label"].shape
            together = torch.cat([support["image"].flatten(0, 1), query["image"].flatten(0, 1)])
            features = self.encode(together)
            parts = torch.split(features, [count * shots, len(features) - count * shots])
            encoded = [torch.unflatten(part, 0, (count, -1)) for part in parts]
        else:
            encoded = [self._tables[name][batch[name]["index"]] for name in ("support", "query")]
        return self.compare(self.represent(encoded[0], support["label"], way), encoded[1])

    def on_validation_epoch_start(self) -> None:
        """Encode the validation images."""
        super().on_validation_epoch_start()
        self._encode_all("val")

    def on_test_epoch_start(self) -> None:
        """Encode the test images."""
        super().on_test_epoch_start()
        self._encode_all("test")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and free the features."""
        super().on_validation_epoch_end()
        self._tables = {}

    def on_test_epoch_end(self) -> None:
        """Log the metrics and free the features."""
        super().on_test_epoch_end()
        self._tables = {}

    def adapt_to(self, images: Tensor, labels: Tensor, way: int) -> None:
        """Store the representations of the classes."""
        self._classes = self.represent(self._encode_in_parts(images)[None], labels[None], way)

    @torch.no_grad()
    def adapted_logits(self, images: Tensor) -> Tensor:
        """Compare images with the stored classes."""
        return self.compare(cast(Tensor, self._classes), self._encode_in_parts(images)[None])[0]

    def _encode_all(self, stage: Stage) -> None:
        evaluation_images = data_extras(datamodule_of(self.trainer)).evaluation_images
        if evaluation_images is None:
            return
        with self.trainer.precision_plugin.forward_context():
            images = evaluation_images(stage)
            support = self._encode_in_parts(images["support"])
            same = images["query"] is images["support"]
            self._tables = {"support": support, "query": support if same else self._encode_in_parts(images["query"])}

    @torch.no_grad()
    def _encode_in_parts(self, images: Tensor) -> Tensor:
        return torch.cat([self.encode(part.to(self.device)) for part in torch.split(images, _BATCH)])
