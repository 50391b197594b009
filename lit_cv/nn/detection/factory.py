"""Object detectors by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from lit_cv.errors import OptionError
from lit_cv.nn.detection.detector import Detector
from lit_cv.nn.detection.faster_rcnn import FasterRCNNDetector
from lit_cv.nn.detection.fcos import FCOSDetector
from lit_cv.nn.detection.layouts import layout_named
from lit_cv.nn.detection.mask_rcnn import MaskRCNNDetector
from lit_cv.nn.detection.retinanet import RetinaNetDetector

__all__ = ["DETECTORS", "build_detector", "default_strides"]

_CLASSES: dict[str, Any] = {
    "fcos": FCOSDetector,
    "retinanet": RetinaNetDetector,
    "faster_rcnn": FasterRCNNDetector,
    "mask_rcnn": MaskRCNNDetector,
}

DETECTORS = tuple(_CLASSES)


def build_detector(
    name: str,
    levels: Mapping[int, int],
    num_classes: int,
    strides: Sequence[int],
    channels: int = 128,
    num_convs: int = 2,
    layout: str | None = None,
    other_classes: int = 0,
) -> Detector:
    """Build a detector with random weights.

    Args:
        name: One of `DETECTORS`.
        levels: Channels of the backbone's maps by stride, `Backbone.feature_levels`.
        num_classes: Number of classes, without the background.
        strides: Strides of the pyramid's maps, see `FeaturePyramid`.
        channels: Channels of each of these maps (256 in the papers).
        num_convs: Convolutions in each branch of the head of FCOS and RetinaNet (4 in the papers), or in the region
            proposal network of Faster R-CNN and Mask R-CNN (1).
        layout: Name of a published detector, see `lit_cv.nn.detection.LAYOUTS`, whose structure replaces `strides`,
            `channels` and `num_convs`; `None` for lit_cv's structure.
        other_classes: Number of further classes that Faster R-CNN and Mask R-CNN have outputs for but report as
            background.

    Raises:
        ValueError: If the name is unknown or a number is out of range.

    Example:
        >>> from lit_cv.nn import create_backbone
        >>> from lit_cv.nn.detection import Limits
        >>> backbone = create_backbone("resnet9_small")
        >>> detector = build_detector("fcos", backbone.feature_levels(), 3, strides=[4, 8], channels=32)
        >>> raw = detector(backbone.forward_maps(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)))
        >>> sorted(detector.losses(raw, [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2))
        ['box_loss', 'centerness_loss', 'class_loss']
        >>> len(detector.detect(raw, [(64, 64), (60, 50)], Limits(max_detections=10)))
        2
    """
    if name not in _CLASSES:
        raise ValueError(f"there is no detector {name!r}: choose one of {', '.join(DETECTORS)}.")
    if channels % 32:
        raise OptionError(
            None, "channels", channels, "must be a multiple of 32, the number of groups of the group norms"
        )
    if num_convs < 1:
        raise OptionError(None, "num_convs", num_convs, "must be at least 1")
    options = {"other_classes": other_classes} if issubclass(_CLASSES[name], FasterRCNNDetector) else {}
    structure = layout_named(layout)
    detector: Detector = _CLASSES[name](levels, num_classes, strides, channels, num_convs, structure, **options)
    return detector


def default_strides(image_size: tuple[int, int] | None) -> list[int]:
    """Return default pyramid strides for an image size: from 8, or from 4 for images of at most 128 pixels.

    Example:
        >>> default_strides((480, 640)), default_strides((64, 64))
        ([8, 16, 32, 64, 128], [4, 8, 16])
    """
    largest = max(image_size) if image_size else 512
    first = 8 if largest > 128 else 4
    return [s for s in (first * 2**i for i in range(5)) if s == first or s <= largest / 4]
