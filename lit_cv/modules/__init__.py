"""The learning approaches, each a LightningModule."""

from lit_cv.modules.base import BaseModule
from lit_cv.modules.fine_tune import FineTuneModule
from lit_cv.modules.mae import MAEModule
from lit_cv.modules.maml import MAMLModule
from lit_cv.modules.prototypical import PrototypicalModule
from lit_cv.modules.relation import RelationModule
from lit_cv.modules.simclr import SimCLRModule
from lit_cv.modules.supervised import SupervisedModule

__all__ = [
    "BaseModule",
    "FineTuneModule",
    "MAEModule",
    "MAMLModule",
    "PrototypicalModule",
    "RelationModule",
    "SimCLRModule",
    "SupervisedModule",
]
