"""Learning approaches for computer vision as LightningModules, with the callbacks that drive them.

Every public class is an attribute of this package; the command line takes the same short names
(`lit-cv fit --model SupervisedModule`). Attributes load on first use, so that `import lit_cv` and
`lit-cv --help` are fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_cv.callbacks import (
        EMA,
        AlternatingFlip,
        Augmentation,
        BatchFigure,
        ClassificationFigures,
        ClassScores,
        CollapseWarning,
        ContrastiveAugmentation,
        CutMix,
        Cutout,
        DomainEmbedding,
        EmbeddingEvaluation,
        EmbeddingProjector,
        LearningRateLog,
        MixUp,
        MonitorEarlyStopping,
        NonFiniteGuard,
        OnlineProbe,
        PredictionFigures,
        PredictionWriter,
        ProgressiveResizing,
        Reconstructions,
        ReverseValidation,
        RunCheckpoint,
        RunProgressBar,
        SourceBaseline,
        TaskCurves,
        TestTimeAugmentation,
        TrainingCurves,
        WeakStrongAugmentation,
        WeightDecaySchedule,
    )
    from lit_cv.modules import (
        BarlowTwinsModule,
        BaseModule,
        BYOLModule,
        ClassConfusionModule,
        DetectionModule,
        DINOModule,
        DistillationModule,
        DomainAdaptationModule,
        DomainAdversarialModule,
        FineTuneModule,
        LeJEPAModule,
        MAEModule,
        MAMLModule,
        MMDModule,
        MoCoModule,
        MultiTaskModule,
        PrototypicalModule,
        RelationModule,
        SegmentationModule,
        SelfTrainingModule,
        SemiSupervisedModule,
        SimCLRModule,
        SourceFreeModule,
        SupervisedModule,
        VICRegModule,
    )

__all__ = [
    "EMA",
    "AlternatingFlip",
    "Augmentation",
    "BYOLModule",
    "BarlowTwinsModule",
    "BaseModule",
    "BatchFigure",
    "ClassConfusionModule",
    "ClassScores",
    "ClassificationFigures",
    "CollapseWarning",
    "ContrastiveAugmentation",
    "CutMix",
    "Cutout",
    "DINOModule",
    "DetectionModule",
    "DistillationModule",
    "DomainAdaptationModule",
    "DomainAdversarialModule",
    "DomainEmbedding",
    "EmbeddingEvaluation",
    "EmbeddingProjector",
    "FineTuneModule",
    "LeJEPAModule",
    "LearningRateLog",
    "MAEModule",
    "MAMLModule",
    "MMDModule",
    "MixUp",
    "MoCoModule",
    "MonitorEarlyStopping",
    "MultiTaskModule",
    "NonFiniteGuard",
    "OnlineProbe",
    "PredictionFigures",
    "PredictionWriter",
    "ProgressiveResizing",
    "PrototypicalModule",
    "Reconstructions",
    "RelationModule",
    "ReverseValidation",
    "RunCheckpoint",
    "RunProgressBar",
    "SegmentationModule",
    "SelfTrainingModule",
    "SemiSupervisedModule",
    "SimCLRModule",
    "SourceBaseline",
    "SourceFreeModule",
    "SupervisedModule",
    "TaskCurves",
    "TestTimeAugmentation",
    "TrainingCurves",
    "VICRegModule",
    "WeakStrongAugmentation",
    "WeightDecaySchedule",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        package = "modules" if name.endswith("Module") else "callbacks"
        return getattr(import_module(f"lit_cv.{package}"), name)
    if name == "losses":
        return import_module("lit_cv.losses")
    raise AttributeError(f"module 'lit_cv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
