"""The learning approaches, each a LightningModule."""

from lit_cv.modules.base import BaseModule
from lit_cv.modules.detection import DetectionModule
from lit_cv.modules.fine_tune import FineTuneModule
from lit_cv.modules.mae import MAEModule
from lit_cv.modules.multi_task import MultiTaskModule
from lit_cv.modules.segmentation import SegmentationModule
from lit_cv.modules.simclr import SimCLRModule
from lit_cv.modules.supervised import SupervisedModule

__all__ = [
    "BaseModule",
    "DetectionModule",
    "FineTuneModule",
    "MAEModule",
    "MultiTaskModule",
    "SegmentationModule",
    "SimCLRModule",
    "SupervisedModule",
]
