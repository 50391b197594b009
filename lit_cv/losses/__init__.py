"""Losses in pure torch, each usable on its own."""

from lit_cv.losses.barlow_twins import barlow_twins_terms
from lit_cv.losses.class_confusion import class_confusion
from lit_cv.losses.classification import class_cross_entropy, label_cross_entropy
from lit_cv.losses.confidence_thresholds import ConfidenceThreshold, ThresholdName, build_threshold
from lit_cv.losses.discrepancy import CORALLoss, MMDLoss, coral, mmd
from lit_cv.losses.distillation import logit_distillation, relation_distillation
from lit_cv.losses.distribution_alignment import DistributionAlignment
from lit_cv.losses.dynamic_weight_average import DynamicWeightAverage
from lit_cv.losses.fcos import fcos_loss
from lit_cv.losses.info_nce import info_nce
from lit_cv.losses.information import information_loss
from lit_cv.losses.masked_reconstruction import MaskedReconstructionLoss
from lit_cv.losses.nt_xent import NTXentLoss, nt_xent
from lit_cv.losses.prediction import cosine_loss
from lit_cv.losses.pseudo_labels import centroid_labels, class_thresholds, fairness_loss, pseudo_labels
from lit_cv.losses.segmentation import dice_loss, pixel_cross_entropy
from lit_cv.losses.self_distillation import self_distillation_loss, sinkhorn_assignments
from lit_cv.losses.sigreg import sigreg
from lit_cv.losses.task_weighting import FixedWeighting, TaskWeighting
from lit_cv.losses.uncertainty_weighting import UncertaintyWeighting
from lit_cv.losses.vicreg import vicreg_terms

__all__ = [
    "CORALLoss",
    "ConfidenceThreshold",
    "DistributionAlignment",
    "DynamicWeightAverage",
    "FixedWeighting",
    "MMDLoss",
    "MaskedReconstructionLoss",
    "NTXentLoss",
    "TaskWeighting",
    "ThresholdName",
    "UncertaintyWeighting",
    "barlow_twins_terms",
    "build_threshold",
    "centroid_labels",
    "class_confusion",
    "class_cross_entropy",
    "class_thresholds",
    "coral",
    "cosine_loss",
    "dice_loss",
    "fairness_loss",
    "fcos_loss",
    "info_nce",
    "information_loss",
    "label_cross_entropy",
    "logit_distillation",
    "mmd",
    "nt_xent",
    "pixel_cross_entropy",
    "pseudo_labels",
    "relation_distillation",
    "self_distillation_loss",
    "sigreg",
    "sinkhorn_assignments",
    "vicreg_terms",
]
