"""Tasks that a network learns, alone or together: head, target, loss, metrics and predictions. No Lightning import."""

from lit_cv.tasks.base_task import TASKS, BaseTask, Features
from lit_cv.tasks.build import build_tasks
from lit_cv.tasks.classification import ClassificationTask, MultiLabelTask
from lit_cv.tasks.detection import DetectionTask
from lit_cv.tasks.loss import TaskLoss, joined_losses
from lit_cv.tasks.regression import RegressionTask
from lit_cv.tasks.segmentation import SegmentationTask
from lit_cv.tasks.task import Task

__all__ = [
    "TASKS",
    "BaseTask",
    "ClassificationTask",
    "DetectionTask",
    "Features",
    "MultiLabelTask",
    "RegressionTask",
    "SegmentationTask",
    "Task",
    "TaskLoss",
    "build_tasks",
    "joined_losses",
]
