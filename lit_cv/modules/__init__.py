"""Learning approaches, each a LightningModule."""

from lit_cv.modules.adversarial import DomainAdversarialModule
from lit_cv.modules.barlow_twins import BarlowTwinsModule
from lit_cv.modules.base import BaseModule
from lit_cv.modules.byol import BYOLModule
from lit_cv.modules.class_confusion import ClassConfusionModule
from lit_cv.modules.detection import DetectionModule
from lit_cv.modules.dino import DINOModule
from lit_cv.modules.distillation import DistillationModule
from lit_cv.modules.domain_adaptation import DomainAdaptationModule
from lit_cv.modules.fine_tune import FineTuneModule
from lit_cv.modules.lejepa import LeJEPAModule
from lit_cv.modules.mae import MAEModule
from lit_cv.modules.maml import MAMLModule
from lit_cv.modules.mmd import MMDModule
from lit_cv.modules.moco import MoCoModule
from lit_cv.modules.multi_task import MultiTaskModule
from lit_cv.modules.prototypical import PrototypicalModule
from lit_cv.modules.relation import RelationModule
from lit_cv.modules.segmentation import SegmentationModule
from lit_cv.modules.self_training import SelfTrainingModule
from lit_cv.modules.semi_supervised import SemiSupervisedModule
from lit_cv.modules.simclr import SimCLRModule
from lit_cv.modules.source_free import SourceFreeModule
from lit_cv.modules.supervised import SupervisedModule
from lit_cv.modules.vicreg import VICRegModule

__all__ = [
    "BYOLModule",
    "BarlowTwinsModule",
    "BaseModule",
    "ClassConfusionModule",
    "DINOModule",
    "DetectionModule",
    "DistillationModule",
    "DomainAdaptationModule",
    "DomainAdversarialModule",
    "FineTuneModule",
    "LeJEPAModule",
    "MAEModule",
    "MAMLModule",
    "MMDModule",
    "MoCoModule",
    "MultiTaskModule",
    "PrototypicalModule",
    "RelationModule",
    "SegmentationModule",
    "SelfTrainingModule",
    "SemiSupervisedModule",
    "SimCLRModule",
    "SourceFreeModule",
    "SupervisedModule",
    "VICRegModule",
]
