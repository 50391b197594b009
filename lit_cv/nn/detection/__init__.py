"""Object detectors on the feature maps of any backbone. Pure torch."""

from lit_cv.nn.detection.detector import Detections, Detector, check_limits
from lit_cv.nn.detection.factory import DETECTORS, build_detector, default_strides

__all__ = ["DETECTORS", "Detections", "Detector", "build_detector", "check_limits", "default_strides"]
