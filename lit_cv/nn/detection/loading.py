"""Loading of a published detector's weights into a lit_cv detector."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from lit_cv.class_matching import shared_classes
from lit_cv.errors import argument
from lit_cv.nn.detection.detector import Detector
from lit_cv.nn.detection.published import DetectorWeights
from lit_cv.nn.weight_errors import errors_named
from lit_cv.nn.weight_files import listed

__all__ = ["load_detector", "prepare_norms"]

_LOGGER = logging.getLogger("lit_cv")
_PREFIXES = (("backbone.fpn.", "pyramid.fpn."), ("roi_heads.", "roi."))  # torchvision's and lit_cv's
# The classifier of FCOS and RetinaNet; the classifier, box regression and masks of the others, which depend on classes.
_CLASSIFIERS = (
    "head.classification_head.cls_logits.",
    "roi.box_predictor.cls_score.",
    "roi.box_predictor.bbox_pred.",
    "roi.mask_predictor.mask_fcn_logits.",
)


def load_detector(detector: Detector, weights: DetectorWeights, class_names: Sequence[str], keep: bool) -> None:
    """Copy weights into a detector (not its backbone), in place, and log loaded, missing and unexpected keys.

    Args:
        detector: The detector, of the same layout.
        weights: From `read_detector`.
        class_names: Names of the detector's classes.
        keep: Whether to copy the classifier's outputs for classes of the same name. All other classifier outputs keep
            their random weights.

    Raises:
        ValueError: If a shape does not fit, or no class has the name of a class of the weights.
    """
    with errors_named(weights.source):
        state = _renamed(weights)
        current = detector.state_dict()
        classifier = [key for key in current if key.startswith(_CLASSIFIERS)]
        loaded = []
        for key in current.keys() & state.keys() - set(classifier):
            if state[key].shape != current[key].shape:
                raise ValueError(
                    f"{key} has the shape {tuple(state[key].shape)}, but {weights.layout} needs "
                    f"{tuple(current[key].shape)}."
                )
            current[key].copy_(state[key])
            loaded.append(key)
        required = [key for key in current if key not in classifier and not key.endswith("num_batches_tracked")]
        missing = [key for key in required if key not in loaded]
        if len(missing) > len(loaded):
            raise ValueError(f"it holds only {len(loaded)} of {len(required)} tensors of {weights.layout}.")
        fresh = list(class_names)
        if keep:
            fresh = _copy_classes(weights, [(current[key], state[key]) for key in classifier], class_names)
    _LOGGER.log(
        logging.WARNING if missing else logging.INFO,
        "%s: loaded %d of %d tensors of %s without its backbone; missing (random): %s; unexpected: %s; classes with "
        "random outputs: %s",
        weights.source,
        len(required) - len(missing),
        len(required),
        weights.layout,
        listed(missing),
        listed(key for key in state if key not in current),
        listed(fresh, 8),
    )


def prepare_norms(body: nn.Module, frozen: bool, eps: float | None) -> None:
    """Set the epsilon of a network's BatchNorm layers and optionally freeze their weights and statistics, in place.

    Args:
        body: The network.
        frozen: Whether to freeze the layers.
        eps: Number that the layers add to variances; `None` keeps it.

    Example:
        >>> body = nn.Sequential(nn.BatchNorm2d(2))
        >>> prepare_norms(body, frozen=True, eps=None)
        >>> body, len(list(body.parameters()))
        (Sequential(
          (0): FrozenBatchNorm2d(2, eps=1e-05)
        ), 0)
    """
    for path, norm in list(body.named_modules()):
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        norm.eps = norm.eps if eps is None else eps
        if frozen:
            fixed = FrozenBatchNorm2d(norm.num_features, norm.eps)
            fixed.load_state_dict(norm.state_dict())
            holder, _, name = path.rpartition(".")
            setattr(body.get_submodule(holder), name, fixed)


def _renamed(weights: DetectorWeights) -> dict[str, Tensor]:
    """Return the tensors of all parts but the backbone under lit_cv's names."""
    renamed = {}
    for key, value in weights.state.items():
        for old, new in _PREFIXES:
            if key.startswith(old):
                key = new + key.removeprefix(old)
        if not key.startswith("backbone."):
            renamed[key] = value
    return renamed


def _copy_classes(
    weights: DetectorWeights, tensors: Sequence[tuple[Tensor, Tensor]], class_names: Sequence[str]
) -> list[str]:
    """Copy the outputs of classes with the same name, and return the names of the other classes.

    Args:
        weights: The weights.
        tensors: Pairs of a classifier tensor of the detector and of the weights.
        class_names: Names of the detector's classes.
    """
    option = argument("keep_classes")
    if not weights.classes:
        raise ValueError(f"it has no names for its {weights.outputs} outputs, but {option} needs them: leave it out.")
    rows = shared_classes(weights.classes, class_names)
    if not any(rows):
        names = listed(filter(None, weights.classes), 8)
        raise ValueError(
            f"it has none of the classes {listed(class_names, 8)}; its classes are {names}: rename yours, or leave "
            f"{option} out."
        )
    two_stage = weights.structure.two_stage
    sources = [0, *rows, *weights.others(class_names)] if two_stage else rows
    pairs = [(target, source) for target, source in enumerate(sources) if source is not None]
    target_rows, source_rows = (torch.tensor(side) for side in zip(*pairs, strict=True))
    anchors = weights.anchors
    for target, source in tensors:
        shape = source.shape[1:]
        source_outputs = source.reshape(anchors, weights.outputs, -1, *shape)
        target.view(anchors, len(sources), -1, *shape)[:, target_rows] = source_outputs[:, source_rows]
    return [name for name, row in zip(class_names, rows, strict=True) if row is None]
