"""Confidence that a pseudo-label of each class needs, fixed or moving with training. Pure torch."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_cv.losses.pseudo_labels import class_thresholds, predicted_classes
from lit_cv.nn.buffers import resize_buffers

__all__ = [
    "ConfidenceThreshold",
    "FixedThreshold",
    "FlexThreshold",
    "FreeThreshold",
    "ThresholdName",
    "build_threshold",
]

ThresholdName = Literal["fixed", "flex", "free"]


class ConfidenceThreshold(nn.Module, ABC):
    """Base of the rules: `observe` moves the thresholds with each batch, `forward` returns those reached so far."""

    @abstractmethod
    def observe(self, probabilities: Tensor, index: Tensor) -> Tensor:
        """Take in the predictions for a batch of unlabeled images, those of all ranks.

        Args:
            probabilities: (N, K) class probabilities of the weak views.
            index: (N,) int64, positions of the images in the dataset.

        Returns:
            Threshold of each class for this batch, (K,).
        """

    @abstractmethod
    def forward(self) -> Tensor:
        """Return the threshold of each class, (K,)."""


class FixedThreshold(ConfidenceThreshold):
    """The same threshold for all classes at all times, as in FixMatch (Sohn et al. 2020).

    Args:
        num_classes: Number of classes K.
        confidence: The threshold.
    """

    value: Tensor

    def __init__(self, num_classes: int, confidence: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.full((num_classes,), confidence), persistent=False)

    def observe(self, probabilities: Tensor, index: Tensor) -> Tensor:
        """Return the threshold of each class, (K,)."""
        return self.value

    def forward(self) -> Tensor:
        """Return the threshold of each class, (K,)."""
        return self.value


class FlexThreshold(ConfidenceThreshold):
    """Lower thresholds for classes that the network has learned less, as in FlexMatch (Zhang et al. 2021).

    The learning status of class c is the number of images whose latest confident prediction (at least `confidence`)
    was c. Divided by the largest of these numbers, and of that of the images without any confident prediction so far,
    it is b(c); the threshold is `confidence * b(c) / (2 - b(c))` (equations 5, 7 and 11). It is 0 at the start, when
    every prediction is learned from. A batch is compared with the thresholds that the batches before it have led to.

    Args:
        num_classes: Number of classes K.
        num_images: Number of images in the dataset.
        confidence: Threshold of the class that is learned best.

    Example:
        >>> threshold = FlexThreshold(2, num_images=4, confidence=0.9)
        >>> threshold.observe(torch.tensor([[0.95, 0.05], [1.0, 0.0], [0.02, 0.98]]), torch.arange(3))
        tensor([0., 0.])
        >>> threshold()
        tensor([0.9000, 0.3000])
    """

    latest: Tensor

    def __init__(self, num_classes: int, num_images: int, confidence: float) -> None:
        super().__init__()
        self.num_classes, self.confidence = num_classes, confidence
        self.register_buffer("latest", torch.full((num_images,), -1))

    @torch.no_grad()
    def observe(self, probabilities: Tensor, index: Tensor) -> Tensor:
        """Return the threshold of each class, and note the confident predictions of the batch.

        Raises:
            ValueError: If images have no position in the dataset, or there is no dataset.
        """
        if len(index) != len(probabilities) or not len(self.latest):
            raise ValueError(
                f"threshold='flex' keeps a prediction for each of {len(self.latest)} images: it needs a DataModule, "
                "and batches with an `index` (N,), the positions of their images."
            )
        thresholds: Tensor = self()
        highest, classes = probabilities.max(1)
        self.latest[index] = torch.where(highest >= self.confidence, classes, self.latest[index])
        return thresholds

    def forward(self) -> Tensor:
        """Return the threshold of each class, (K,)."""
        counts = torch.zeros(self.num_classes + 1, device=self.latest.device)
        counts.index_add_(0, self.latest + 1, torch.ones_like(self.latest, dtype=counts.dtype))
        status = counts[1:] / counts.max().clamp_min(1)
        return self.confidence * status / (2 - status)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        resize_buffers(self, state_dict, prefix, "latest")
        super()._load_from_state_dict(state_dict, prefix, *args)


class FreeThreshold(ConfidenceThreshold):
    """Thresholds that follow the network's own confidence, as in FreeMatch (Wang et al. 2023).

    The global threshold is a moving average of the mean confidence, from 1 / K on; that of a class is the global one
    times the class's mean probability relative to the largest (equations 5 to 8). A batch moves the averages before
    it is compared with them.

    Args:
        num_classes: Number of classes K.
        decay: Share of the averages that stays at each step.

    Attributes:
        confidence: Moving average of the highest probability, ().
        probabilities: Moving average of the class probabilities, (K,).
        histogram: Moving average of the shares of the predicted classes, (K,).

    Example:
        >>> threshold = FreeThreshold(2, decay=0.5)
        >>> threshold.observe(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.arange(2))
        tensor([0.6500, 0.3500])
    """

    confidence: Tensor
    probabilities: Tensor
    histogram: Tensor

    def __init__(self, num_classes: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("confidence", torch.tensor(1 / num_classes))
        self.register_buffer("probabilities", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("histogram", torch.full((num_classes,), 1 / num_classes))

    @torch.no_grad()
    def observe(self, probabilities: Tensor, index: Tensor) -> Tensor:
        """Move the averages, and return the threshold of each class."""
        self.confidence.lerp_(probabilities.amax(1).mean(), 1 - self.decay)
        self.probabilities.lerp_(probabilities.mean(0), 1 - self.decay)
        self.histogram.lerp_(predicted_classes(probabilities).mean(0), 1 - self.decay)
        thresholds: Tensor = self()
        return thresholds

    def forward(self) -> Tensor:
        """Return the threshold of each class, (K,)."""
        return class_thresholds(self.confidence, self.probabilities)


def build_threshold(
    name: ThresholdName, num_classes: int, num_images: int, confidence: float, decay: float
) -> ConfidenceThreshold:
    """Return the rule of a name.

    Args:
        name: `fixed`, `flex` or `free`.
        num_classes: Number of classes K.
        num_images: Number of images in the dataset, for `flex`.
        confidence: Threshold of `fixed`, and the highest one of `flex`.
        decay: Share of the averages of `free` that stays at each step.
    """
    if name == "flex":
        return FlexThreshold(num_classes, num_images, confidence)
    return FreeThreshold(num_classes, decay) if name == "free" else FixedThreshold(num_classes, confidence)
