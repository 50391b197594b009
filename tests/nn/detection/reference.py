"""torchvision's detectors with random weights, built like the published ones."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from lit_cv.nn.detection import LAYOUTS, Limits

CATEGORIES: list[str] = detection.FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
NO_CLASS = ("__background__", "N/A")
_SPREAD = {  # standard deviation of the outputs of these layers, so that scores and boxes differ
    "head.classification_head.cls_logits": 1.5,
    "head.regression_head.bbox_reg": 0.5,
    "rpn.head.cls_logits": 1.0,
    "rpn.head.bbox_pred": 0.2,
    "roi_heads.box_predictor.cls_score": 2.0,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.mask_predictor.mask_fcn_logits": 3.0,
}


def reference(name: str, frozen: bool | None = None) -> Any:
    """Return a torchvision detector in evaluation mode, without the resizing of images.

    Args:
        name: Name of the detector.
        frozen: Whether its backbone has frozen BatchNorm; `None` follows the published weights.
    """
    torch.manual_seed(0)
    network = detection.__dict__[name](weights=None, weights_backbone=None)
    layout = LAYOUTS[name]
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in ((norm.running_mean, -0.1, 0.1), (norm.running_var, 0.5, 1.5)):
                values.uniform_(low, high)
            nn.init.uniform_(norm.weight, 0.5, 1.0)
            nn.init.uniform_(norm.bias, -0.1, 0.1)
    if layout.frozen_eps is not None and frozen is not False:
        freeze(network.backbone.body, layout.frozen_eps)
    network.transform.resize = lambda image, target=None: (image, target)
    holder = network.roi_heads if layout.two_stage else network
    holder.detections_per_img = 1000  # N/A classes must not displace others
    holder.score_thresh = 0.3 if layout.detector == "mask_rcnn" else 0.05  # masks take long
    network.eval()
    spread_outputs(network)
    return network


@cache
def smallest() -> Any:
    """Return the smallest detector, shared by all tests, which must not change it."""
    return reference("fasterrcnn_mobilenet_v3_large_fpn")


def freeze(module: nn.Module, eps: float) -> None:
    """Replace BatchNorm by torchvision's frozen BatchNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            fixed = FrozenBatchNorm2d(child.num_features, eps)
            fixed.load_state_dict(child.state_dict())
            setattr(module, name, fixed)
        else:
            freeze(child, eps)


def spread_outputs(network: nn.Module) -> None:
    """Scale the last layers so that their outputs for a random image have a common magnitude."""
    spread = {layer: _SPREAD[path] for path, layer in network.named_modules() if path in _SPREAD}
    done: set[nn.Module] = set()

    def scale(layer: Any, inputs: tuple[Tensor]) -> None:
        if layer not in done:
            done.add(layer)
            output = layer.forward(*inputs)
            bias = layer.bias.view(-1, 1, 1) if output.ndim == 4 else layer.bias
            layer.weight.mul_(spread[layer] / (output - bias).std())

    handles = [layer.register_forward_pre_hook(scale) for layer in spread]
    with torch.no_grad():
        network([torch.rand(3, 128, 160)])
    for handle in handles:
        handle.remove()


def silence(network: Any) -> None:
    """Keep FCOS or RetinaNet from detecting N/A classes, as training would."""
    head = network.head.classification_head
    unnamed = [row for row, name in enumerate(CATEGORIES) if name in NO_CLASS]
    with torch.no_grad():
        head.cls_logits.weight.view(head.num_anchors, len(CATEGORIES), -1)[:, unnamed] = 0
        head.cls_logits.bias.view(head.num_anchors, len(CATEGORIES))[:, unnamed] = -100


def limits(network: Any) -> Limits:
    """Return the limits of the objects of a detector of torchvision."""
    holder = network.roi_heads if hasattr(network, "roi_heads") else network
    return Limits(holder.score_thresh, holder.nms_thresh, holder.detections_per_img)
