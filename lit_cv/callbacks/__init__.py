"""Lightning callbacks for behavior shared by several learning approaches."""

from lit_cv.callbacks.alternating_flip import AlternatingFlip
from lit_cv.callbacks.augmentation import Augmentation
from lit_cv.callbacks.batch_figure import BatchFigure
from lit_cv.callbacks.class_scores import ClassScores
from lit_cv.callbacks.classification_figures import ClassificationFigures
from lit_cv.callbacks.collapse import CollapseWarning
from lit_cv.callbacks.contrastive import ContrastiveAugmentation
from lit_cv.callbacks.cutmix import CutMix
from lit_cv.callbacks.cutout import Cutout
from lit_cv.callbacks.domain_embedding import DomainEmbedding
from lit_cv.callbacks.early_stopping import MonitorEarlyStopping
from lit_cv.callbacks.ema import EMA
from lit_cv.callbacks.embedding_evaluation import EmbeddingEvaluation
from lit_cv.callbacks.embedding_projector import EmbeddingProjector
from lit_cv.callbacks.learning_rate import LearningRateLog
from lit_cv.callbacks.mixup import MixUp
from lit_cv.callbacks.model_summary import RunModelSummary
from lit_cv.callbacks.non_finite import NonFiniteGuard
from lit_cv.callbacks.online_probe import OnlineProbe
from lit_cv.callbacks.prediction_figures import PredictionFigures
from lit_cv.callbacks.prediction_writer import PredictionWriter
from lit_cv.callbacks.progress import RunProgressBar
from lit_cv.callbacks.progressive_resizing import ProgressiveResizing
from lit_cv.callbacks.reconstructions import Reconstructions
from lit_cv.callbacks.reverse_validation import ReverseValidation
from lit_cv.callbacks.run_checkpoint import RunCheckpoint
from lit_cv.callbacks.source_baseline import SourceBaseline
from lit_cv.callbacks.task_curves import TaskCurves
from lit_cv.callbacks.test_time_augmentation import TestTimeAugmentation
from lit_cv.callbacks.training_curves import TrainingCurves
from lit_cv.callbacks.weak_strong import WeakStrongAugmentation
from lit_cv.callbacks.weight_decay import WeightDecaySchedule

__all__ = [
    "EMA",
    "AlternatingFlip",
    "Augmentation",
    "BatchFigure",
    "ClassScores",
    "ClassificationFigures",
    "CollapseWarning",
    "ContrastiveAugmentation",
    "CutMix",
    "Cutout",
    "DomainEmbedding",
    "EmbeddingEvaluation",
    "EmbeddingProjector",
    "LearningRateLog",
    "MixUp",
    "MonitorEarlyStopping",
    "NonFiniteGuard",
    "OnlineProbe",
    "PredictionFigures",
    "PredictionWriter",
    "ProgressiveResizing",
    "Reconstructions",
    "ReverseValidation",
    "RunCheckpoint",
    "RunModelSummary",
    "RunProgressBar",
    "SourceBaseline",
    "TaskCurves",
    "TestTimeAugmentation",
    "TrainingCurves",
    "WeakStrongAugmentation",
    "WeightDecaySchedule",
]
