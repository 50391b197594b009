"""Copying the weights of a published detector into one of ours."""

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
_OURS = (("backbone.fpn.", "pyramid.fpn."), ("roi_heads.", "roi."))  # what our detectors call these parts
# The classifier of FCOS and RetinaNet, and that of Faster R-CNN with its boxes by class.
_CLASSIFIERS = ("head.classification_head.cls_logits.", "roi.box_predictor.cls_score.", "roi.box_predictor.bbox_pred.")


def load_detector(detector: Detector, weights: DetectorWeights, class_names: Sequence[str], keep: bool) -> None:
    """Copy weights into a detector behind a backbone, in place, and log what was loaded, missing and unexpected.

    Args:
        detector: The detector, of the same layout.
        weights: From `read_detector`.
        class_names: Names of its classes.
        keep: Whether the classifier's outputs are copied for the classes of the same names; otherwise, and for the
            other classes, they keep their random weights.

    Raises:
        ValueError: If a shape does not fit, or no class has the name of one of the weights.
    """
    with errors_named(weights.source):
        given = _as_ours(weights)
        ours = detector.state_dict()
        classifier = [key for key in ours if key.startswith(_CLASSIFIERS)]
        loaded = []
        for key in ours.keys() & given.keys() - set(classifier):
            if given[key].shape != ours[key].shape:
                raise ValueError(
                    f"{key} has the shape {tuple(given[key].shape)}, but {weights.layout} needs "
                    f"{tuple(ours[key].shape)}."
                )
            ours[key].copy_(given[key])
            loaded.append(key)
        wanted = [key for key in ours if key not in classifier and not key.endswith("num_batches_tracked")]
        missing = [key for key in wanted if key not in loaded]
        if len(missing) > len(loaded):
            raise ValueError(f"only {len(loaded)} of {len(wanted)} tensors of {weights.layout} are there.")
        fresh = list(class_names)
        if keep:
            fresh = _copy_classes(weights, [(ours[key], given[key]) for key in classifier], class_names)
    _LOGGER.log(
        logging.WARNING if missing else logging.INFO,
        "%s: loaded %d of %d tensors of %s behind its backbone; missing (random): %s; unexpected: %s; classes with "
        "random outputs: %s",
        weights.source,
        len(wanted) - len(missing),
        len(wanted),
        weights.layout,
        listed(missing),
        listed(key for key in given if key not in ours),
        listed(fresh, 8),
    )


def prepare_norms(body: nn.Module, frozen: bool, eps: float | None) -> None:
    """Freeze the BatchNorm layers of a network, in place: neither weights nor statistics change from then on.

    Args:
        body: The network.
        frozen: Whether to freeze them, or only to set what they add to variances.
        eps: What they add to variances; `None` keeps it.

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


def _as_ours(weights: DetectorWeights) -> dict[str, Tensor]:
    """Return the tensors behind the backbone by the names that they have in our detectors."""
    found = {}
    for key, value in weights.state.items():
        for theirs, ours in _OURS:
            if key.startswith(theirs):
                key = ours + key.removeprefix(theirs)
        if not key.startswith("backbone."):
            found[key] = value
    return found


def _copy_classes(
    weights: DetectorWeights, tensors: Sequence[tuple[Tensor, Tensor]], class_names: Sequence[str]
) -> list[str]:
    """Copy the outputs of the classes of the same names, and return the names of the others.

    Args:
        weights: The weights.
        tensors: Each tensor of the classifier, and that of the weights.
        class_names: Names of the classes.
    """
    option = argument("keep_classes")
    if not weights.classes:
        raise ValueError(f"it does not name its {weights.outputs} outputs, which {option} needs: leave it out.")
    rows = shared_classes(weights.classes, class_names)
    if not any(rows):
        held = listed(filter(None, weights.classes), 8)
        raise ValueError(
            f"none of the classes {listed(class_names, 8)} is one of its own ({held}): rename them, or leave "
            f"{option} out."
        )
    softmax = weights.structure.detector == "faster_rcnn"
    wanted = [0, *rows, *weights.others(class_names)] if softmax else rows
    pairs = [(ours, theirs) for ours, theirs in enumerate(wanted) if theirs is not None]
    into, taken = (torch.tensor(side) for side in zip(*pairs, strict=True))
    anchors = weights.anchors
    for own, given in tensors:
        rest = given.shape[1:]
        rows_given = given.reshape(anchors, weights.outputs, -1, *rest)
        own.view(anchors, len(wanted), -1, *rest)[:, into] = rows_given[:, taken]
    return [name for name, row in zip(class_names, rows, strict=True) if row is None]
