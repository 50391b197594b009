"""Optimizers, parameter groups and learning-rate schedules. Pure torch."""

from lit_cv.optim.gradient_surgery import projection_weights, surgery_backward
from lit_cv.optim.groups import Layer, layer_groups, parameter_groups
from lit_cv.optim.lars import LARS
from lit_cv.optim.logistic_regression import (
    LinearClassifier,
    LogisticRegression,
    StrengthSearch,
    fit_logistic_regression,
    search_strength,
)
from lit_cv.optim.muon import Muon
from lit_cv.optim.names import OptimizerName, ScheduleName
from lit_cv.optim.optimizers import OPTIMIZERS, build_optimizer, check_optimizer, reapply_options, scales_layers
from lit_cv.optim.scaling import scale_lr
from lit_cv.optim.schedules import SCHEDULES, Plateau, StepSchedule, build_schedule, check_schedule

__all__ = [
    "LARS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Layer",
    "LinearClassifier",
    "LogisticRegression",
    "Muon",
    "OptimizerName",
    "Plateau",
    "ScheduleName",
    "StepSchedule",
    "StrengthSearch",
    "build_optimizer",
    "build_schedule",
    "check_optimizer",
    "check_schedule",
    "fit_logistic_regression",
    "layer_groups",
    "parameter_groups",
    "projection_weights",
    "reapply_options",
    "scale_lr",
    "scales_layers",
    "search_strength",
    "surgery_backward",
]
