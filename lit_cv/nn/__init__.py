"""Backbones and heads. Pure torch."""

import warnings
from typing import Any

from lit_cv.nn.backbone import Backbone, Network
from lit_cv.nn.backbone_and_head import BackboneAndHead
from lit_cv.nn.checkpoint_weights import checkpoint_options, load_head
from lit_cv.nn.discriminator import DomainDiscriminator
from lit_cv.nn.factory import check_backbone_name, create_backbone, has_small_stem, list_backbones
from lit_cv.nn.gradient_reversal import reverse_gradient
from lit_cv.nn.heads import ClassificationHead, SpatialDropout
from lit_cv.nn.key_queue import KeyQueue
from lit_cv.nn.lora import add_lora, has_lora, lora_layers, merge_lora, merge_lora_state
from lit_cv.nn.moving_average import MovingAverage, cosine_decay
from lit_cv.nn.preprocessing import Preprocessing
from lit_cv.nn.projector import Projector
from lit_cv.nn.prototype_head import PrototypeHead
from lit_cv.nn.resizing import resize_images
from lit_cv.nn.stages import BackboneStage, backbone_stages, find_stage
from lit_cv.nn.stochastic_depth import set_stochastic_depth
from lit_cv.nn.taps import LayerTaps
from lit_cv.nn.teacher import Teacher, build_teacher
from lit_cv.nn.vit_layouts import export_vit
from lit_cv.nn.weight_files import absolute_weights
from lit_cv.nn.weights import Weights

__all__ = [
    "Backbone",
    "BackboneAndHead",
    "BackboneStage",
    "ClassificationHead",
    "DomainDiscriminator",
    "KeyQueue",
    "LayerTaps",
    "MovingAverage",
    "Network",
    "Preprocessing",
    "Projector",
    "PrototypeHead",
    "SpatialDropout",
    "Teacher",
    "Weights",
    "absolute_weights",
    "add_lora",
    "backbone_stages",
    "build_teacher",
    "check_backbone_name",
    "checkpoint_options",
    "cosine_decay",
    "create_backbone",
    "export_vit",
    "find_stage",
    "has_lora",
    "has_small_stem",
    "list_backbones",
    "load_head",
    "lora_layers",
    "merge_lora",
    "merge_lora_state",
    "resize_images",
    "reverse_gradient",
    "set_stochastic_depth",
]


def __getattr__(name: str) -> Any:
    if name == "Stage":
        warnings.warn("`lit_cv.nn.Stage` is now `BackboneStage`.", FutureWarning, stacklevel=2)
        return BackboneStage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
