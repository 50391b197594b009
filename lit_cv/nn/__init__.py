"""Backbones and heads. Pure torch."""

from lit_cv.nn.backbone import Backbone, Network
from lit_cv.nn.factory import check_backbone_name, create_backbone, has_small_stem, list_backbones
from lit_cv.nn.heads import ClassificationHead, SpatialDropout
from lit_cv.nn.projector import Projector

__all__ = [
    "Backbone",
    "ClassificationHead",
    "Network",
    "Projector",
    "SpatialDropout",
    "check_backbone_name",
    "create_backbone",
    "has_small_stem",
    "list_backbones",
]
