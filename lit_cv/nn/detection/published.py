"""Weights of torchvision's published detectors, read by name or from a file."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor
from torchvision import models

from lit_cv.class_matching import shared_classes
from lit_cv.nn.detection.layouts import LAYOUTS, Layout
from lit_cv.nn.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from lit_cv.nn.weight_errors import errors_named, require_real
from lit_cv.nn.weight_files import WeightFile, find_file
from lit_cv.nn.weights import Weights, download_weights

__all__ = ["COCO", "DetectorWeights", "read_detector"]

COCO = "COCO"
"""Value of `weights` for the published weights of a kind of detector."""

_BODY, _PYRAMID = "backbone.body.", "backbone.fpn."
_CENTERNESS = "head.regression_head.bbox_ctrness.weight"
_SIGMOID, _SOFTMAX = "head.classification_head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight"
_MASKS = "roi_heads.mask_predictor.mask_fcn_logits.weight"
_ANCHORS = {"fcos": 1, "retinanet": 9, "faster_rcnn": 1, "mask_rcnn": 1}  # per location, each with its own outputs
_COCO_OUTPUTS = 91
# Some published files use older names than torchvision's code.
_RENAMED = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)
_OLD_MASK_HEAD = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$")
_OLD_RETINANET = re.compile(r"^(head\.(?:classification|regression)_head\.conv)\.(\d)\.(weight|bias)$")


class DetectorWeights(NamedTuple):
    """Weights of one of torchvision's detectors.

    Attributes:
        source: The file or the published weights.
        layout: Name of the structure, one of `LAYOUTS`.
        state: The tensors under torchvision's names.
        frozen: Whether the BatchNorm of the backbone is frozen.
        classes: Name of each output, an empty string for an output of no class; empty if the names are unknown.
    """

    source: str
    layout: str
    state: dict[str, Tensor]
    frozen: bool
    classes: tuple[str, ...]

    @property
    def structure(self) -> Layout:
        """Structure of the detector."""
        return LAYOUTS[self.layout]

    def of_backbone(self) -> Weights:
        """Return the weights of the backbone under its names, with the preprocessing of its images."""
        prefix = "features." if self.structure.backbone.startswith("mobilenet") else ""
        body = {prefix + key.removeprefix(_BODY): value for key, value in self.state.items() if key.startswith(_BODY)}
        images = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear", source="torchvision's detectors")
        return Weights(self.source, body, images, of_backbone=True)

    @property
    def anchors(self) -> int:
        """Number of anchors per location; the classifier has outputs of all classes for each."""
        return _ANCHORS[self.structure.detector]

    @property
    def outputs(self) -> int:
        """Number of outputs of the classifier, including the background."""
        key = _SOFTMAX if self.structure.two_stage else _SIGMOID
        return len(self.state[key]) // self.anchors

    def others(self, class_names: Sequence[str]) -> list[int]:
        """Return the outputs, except the background's, that belong to none of `class_names`."""
        return sorted(set(range(1, self.outputs)) - set(shared_classes(self.classes, class_names)))


def read_detector(weights: str, detector: str, backbone: str) -> DetectorWeights | None:
    """Read the weights of one of torchvision's detectors; return `None` for weights of a backbone only.

    Args:
        weights: `COCO`, the name of torchvision's weights (`FCOS_ResNet50_FPN_Weights.COCO_V1`), or the path of a state
            dict of such a detector, pickled or as safetensors.
        detector: Kind of detector for `COCO`: `fcos`, `retinanet`, `faster_rcnn` or `mask_rcnn`.
        backbone: Preferred backbone for `COCO`.

    Raises:
        ValueError: If the file cannot be read as weights.
        FileNotFoundError: If there is no such file.
        OSError: If published weights cannot be downloaded.
    """
    if (file := find_file(weights)) is not None:
        with errors_named(str(file.path)):
            return _from_file(file)
    layout = _best_layout(detector, backbone) if weights == COCO else _layout_of(weights)
    if layout is None:
        return None
    chosen = models.get_model_weights(layout)["COCO_V1"]
    state = download_weights(weights, chosen)
    return _described(str(chosen), layout, _renamed(state), LAYOUTS[layout].frozen_eps is not None)


def _best_layout(detector: str, backbone: str) -> str | None:
    """Return the most accurate layout of a detector, preferably with this backbone."""
    of_kind = [name for name, layout in LAYOUTS.items() if layout.detector == detector]
    return next((name for name in of_kind if LAYOUTS[name].backbone == backbone), next(iter(of_kind), None))


def _layout_of(weights: str) -> str | None:
    """Return the layout for the full name of torchvision's weights, `None` for other names."""
    holder, _, member = weights.rpartition(".")
    named = (name for name in LAYOUTS if models.get_model_weights(name).__name__ == holder)
    return next(named, None) if member in ("COCO_V1", "DEFAULT") else None


def _from_file(file: WeightFile) -> DetectorWeights | None:
    state = {key: value for key, value in file.entries(file.read()).items() if isinstance(value, Tensor)}
    state = _renamed(state)
    if (layout := _recognized(state)) is None:
        return None
    require_real(str(file), state)
    tracked = any(key.startswith(_BODY) and key.endswith("num_batches_tracked") for key in state)
    return _described(str(file), layout, state, LAYOUTS[layout].frozen_eps is not None and not tracked)


def _described(source: str, layout: str, state: dict[str, Tensor], frozen: bool) -> DetectorWeights:
    weights = DetectorWeights(source, layout, state, frozen, ())
    if weights.outputs != _COCO_OUTPUTS:
        return weights
    names = models.get_model_weights(layout)["COCO_V1"].meta["categories"]
    return weights._replace(classes=tuple("" if name in ("__background__", "N/A") else name for name in names))


def _recognized(state: Mapping[str, Tensor]) -> str | None:
    """Return the layout that the keys of a state dict belong to, `None` if there is none."""
    if not any(key.startswith(_PYRAMID) for key in state):
        return None
    if _SIGMOID in state:
        if _CENTERNESS in state:
            return "fcos_resnet50_fpn"
        normed = "head.classification_head.conv.0.1.weight" in state
        return "retinanet_resnet50_fpn_v2" if normed else "retinanet_resnet50_fpn"
    if _SOFTMAX not in state:
        return None
    if f"{_BODY}0.0.weight" in state:
        return "fasterrcnn_mobilenet_v3_large_fpn"
    kind = "maskrcnn" if _MASKS in state else "fasterrcnn"
    return f"{kind}_resnet50_fpn_v2" if "roi_heads.box_head.0.0.weight" in state else f"{kind}_resnet50_fpn"


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with torchvision's current names."""
    renamed = {}
    for key, value in state.items():
        for pattern, new in _RENAMED:
            key = pattern.sub(new, key)
        if old := _OLD_MASK_HEAD.match(key):
            key = f"roi_heads.mask_head.{int(old[1]) - 1}.0.{old[2]}"
        if _CENTERNESS not in state and (old := _OLD_RETINANET.match(key)):
            key = f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}"
        renamed[key] = value
    return renamed
