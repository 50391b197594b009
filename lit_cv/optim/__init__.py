"""Optimizers, parameter groups and learning-rate schedules. Pure torch."""

from lit_cv.optim.gradient_surgery import projection_weights, surgery_backward
from lit_cv.optim.groups import Layer, layer_groups, parameter_groups
from lit_cv.optim.lars import LARS
from lit_cv.optim.optimizers import OptimizerName, build_optimizer, reapply_options
from lit_cv.optim.scaling import scale_lr
from lit_cv.optim.schedules import Plateau, ScheduleName, StepSchedule, build_schedule

__all__ = [
    "LARS",
    "Layer",
    "OptimizerName",
    "Plateau",
    "ScheduleName",
    "StepSchedule",
    "build_optimizer",
    "build_schedule",
    "layer_groups",
    "parameter_groups",
    "projection_weights",
    "reapply_options",
    "scale_lr",
    "surgery_backward",
]
