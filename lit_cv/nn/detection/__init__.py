"""Object detectors on the feature maps of any backbone. Pure torch."""

from lit_cv.nn.detection.detector import Detector
from lit_cv.nn.detection.factory import DETECTORS, build_detector, default_strides
from lit_cv.nn.detection.layouts import LAYOUTS, Layout, LayoutName, layout_named
from lit_cv.nn.detection.loading import load_detector, prepare_norms
from lit_cv.nn.detection.published import DetectorWeights, read_detector
from lit_cv.nn.detection.selection import Detections, Limits, PaddedDetections, named_entries

__all__ = [
    "DETECTORS",
    "LAYOUTS",
    "Detections",
    "Detector",
    "DetectorWeights",
    "Layout",
    "LayoutName",
    "Limits",
    "PaddedDetections",
    "build_detector",
    "default_strides",
    "layout_named",
    "load_detector",
    "named_entries",
    "prepare_norms",
    "read_detector",
]
