"""What a network may serve besides others: a head, a target, a loss and metrics for each kind of task. No Lightning."""

from lit_cv.tasks.base_task import BaseTask, Features, TaskLoss
from lit_cv.tasks.classification import ClassificationTask, MultiLabelTask
from lit_cv.tasks.detection import DetectionTask
from lit_cv.tasks.registry import TASKS, build_tasks
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
]
