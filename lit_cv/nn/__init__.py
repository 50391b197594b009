"""Backbones and heads. Pure torch."""

from lit_cv.nn.backbone import Backbone, Network
from lit_cv.nn.factory import check_backbone_name, create_backbone, has_small_stem, list_backbones
from lit_cv.nn.heads import ClassificationHead, SpatialDropout
from lit_cv.nn.vit_layouts import export_vit

__all__ = [
    "Backbone",
    "ClassificationHead",
    "Network",
    "SpatialDropout",
    "check_backbone_name",
    "create_backbone",
    "export_vit",
    "has_small_stem",
    "list_backbones",
]
