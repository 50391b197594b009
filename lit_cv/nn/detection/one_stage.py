"""The base class of object detectors with one stage."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_cv.nn.detection.detector import Detector
from lit_cv.nn.detection.padded import select_padded
from lit_cv.nn.detection.selection import Detections, Limits, PaddedDetections

__all__ = ["OneStageDetector"]


class OneStageDetector(Detector):
    """Base of the detectors that predict a box and the scores of all classes at fixed places of an image."""

    @abstractmethod
    def decode(self, raw: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the boxes (N, L, 4), xyxy in pixels, and the scores (N, L, K) in [0, 1] of all places."""

    @torch.no_grad()
    def detect(
        self,
        raw: Mapping[str, Any],
        sizes: Sequence[tuple[int, int]],
        limits: Limits,
    ) -> list[Detections]:
        """Return the detected objects in each image, see `Detector.detect`."""
        boxes, scores = self.decode(raw)
        return self.select_each(boxes, scores, sizes, limits, raw)

    def detect_padded(
        self,
        raw: Mapping[str, Any],
        size: tuple[int, int],
        limits: Limits,
        suppress: bool = True,
    ) -> PaddedDetections:
        """Return the objects of `detect` as tensors of fixed sizes, see `Detector.detect_padded`."""
        return select_padded(*self.decode(raw), size, limits, self.selection, raw.get("groups", ()), suppress)
