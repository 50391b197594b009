"""The table of approaches: data and options with which the contracts test each subclass of `BaseModule`.

A new approach needs one row here, or none if it only learns from images with labels.
"""

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging

import lit_cv.modules
from lit_cv import (
    BarlowTwinsModule,
    BYOLModule,
    ClassConfusionModule,
    DetectionModule,
    DINOModule,
    DistillationModule,
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
from lit_cv.callbacks import (
    EMA,
    Augmentation,
    CollapseWarning,
    ContrastiveAugmentation,
    EmbeddingEvaluation,
    OnlineProbe,
    WeakStrongAugmentation,
    WeightDecaySchedule,
)
from lit_cv.modules.base import BaseModule
from lit_cv.running.support_callbacks import add_support_callbacks
from tests.contracts.approaches import BYOL
from tests.contracts.data import DomainPairs, Episodes, Images, Scenes
from tests.contracts.readme import CountModule, ParityDataModule, RotationModule  # type: ignore[attr-defined]

CONTRACTS: dict[str, str] = {
    "resume": "a run killed during gradient accumulation, in validation or between epochs resumes bit for bit",
    "ranks": "a step on two ranks equals a step on the joined batch, except for random draws and BatchNorm statistics",
    "precision": "losses are finite in float32 and under bfloat16 autocast",
    "copies": "copies by `deepcopy`, pickle and `load_from_checkpoint` give the same predictions",
    "export": "the exported program and weights give the module's outputs",
    "arguments": "`--model.help` lists all arguments; hyperparameters load with `weights_only=True`",
    "errors": "a wrong batch raises a one-line error that names the class and the entry it needs",
    "evaluation": "`validate` reproduces the last validation; evaluation changes no state",
    "overhead": "a step does not wait for the device, and runs the backbone as often as its row says",
}
"""The contracts by their name in the docs."""

CONV: dict[str, Any] = {"backbone": "conv4"}
DENSE: dict[str, Any] = {"backbone": "conv4", "channels": 32}
MASKED: dict[str, Any] = {
    "backbone": "vit_micro_p8", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip
TASKS: dict[str, Any] = {
    "shape": {"type": "classification"},
    "pixels": {"type": "segmentation", "channels": 32},
    "objects": {"type": "detection", "channels": 32, "num_convs": 1},
}
SMALL_PROJECTOR: dict[str, Any] = CONV | {"projector_hidden": 32, "projector_dim": 16}
MIRROR = ["horizontal_flip"]
BOXES = "Exported programs return a fixed number of boxes."
SELECTION = "A step waits for the device where it selects anchors or images by their targets."


def two_views() -> list[L.Callback]:
    return [ContrastiveAugmentation()]


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        cls: The approach.
        options: Constructor arguments that are not inferred from the data.
        data: Its DataModule.
        callbacks: Callbacks that it needs in addition to those of every run.
        variant: Name of a further row of the same class, which is only tested for `resume`.
        epochs: Epochs of a run.
        killed_in: Epochs, from 0, in which it is killed.
        pretrained: Whether it starts from the weights of a `SupervisedModule`.
        weights_argument: The argument that takes these weights.
        moved: Prefixes of names of state, such as moving averages, that `after_step` updates.
        passes: How often a training step runs a backbone on a batch of images.
        syncs: How often a training step may wait for the device.
        not_promised: Why a contract does not hold for this approach, by the name of the contract.
        notes: Limits of a contract that holds, by the name of the contract.
        is_default: Whether the class has no row and uses this default one.
    """

    cls: type[BaseModule]
    options: Mapping[str, Any] = field(default_factory=lambda: CONV)
    data: Callable[[], L.LightningDataModule] = Images
    callbacks: Callable[[], list[L.Callback]] = list
    variant: str = ""
    epochs: int = 2
    killed_in: tuple[int, ...] = (0,)
    pretrained: bool = False
    weights_argument: str = "weights"
    moved: tuple[str, ...] = ()
    passes: int = 1
    syncs: int = 0
    not_promised: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    is_default: bool = False

    @property
    def name(self) -> str:
        """Name of the row: the class and the variant."""
        return f"{self.cls.__name__}, {self.variant}" if self.variant else self.cls.__name__


ROWS: list[Case] = [
    Case(SupervisedModule, CONV | {"dropout": 0.3}),
    Case(FineTuneModule, CONV | {"strategy": "discriminative_lr", "optimizer": "sgd"}),
    Case(SimCLRModule, callbacks=two_views),
    Case(BYOLModule, SMALL_PROJECTOR | {"decay": 0.8}, callbacks=two_views, moved=("target.",), passes=4),
    Case(MoCoModule, SMALL_PROJECTOR | {"queue_size": 10}, callbacks=two_views, moved=("key.", "queue."), passes=2),
    Case(VICRegModule, SMALL_PROJECTOR, callbacks=two_views, passes=2),
    Case(BarlowTwinsModule, SMALL_PROJECTOR, callbacks=two_views, passes=2),
    Case(LeJEPAModule, SMALL_PROJECTOR | {"directions": 16}, callbacks=two_views),
    Case(
        DINOModule,
        CONV | {"prototypes": 24, "hidden": 32, "bottleneck": 16, "decay": 0.8, "freeze_prototypes_epochs": 1},
        callbacks=two_views,
        moved=("teacher.", "center"),
        passes=2,
    ),
    Case(MAEModule, MASKED),
    Case(
        DistillationModule,
        CONV | {"teacher": "conv4"},
        pretrained=True,
        weights_argument="teacher_weights",
        passes=2,
    ),
    Case(DetectionModule, DENSE, Scenes, syncs=5, notes={"export": BOXES, "overhead": SELECTION}),
    Case(SegmentationModule, DENSE, Scenes),
    Case(
        MultiTaskModule,
        CONV | {"tasks": TASKS},
        Scenes,
        syncs=9,
        notes={"export": BOXES, "overhead": SELECTION},
    ),
    Case(DomainAdversarialModule, CONV | {"conditioning": "entropy"}, DomainPairs),
    Case(MMDModule, data=DomainPairs),
    Case(ClassConfusionModule, data=DomainPairs),
    Case(
        SelfTrainingModule,
        CONV | {"threshold": 0.3, "teacher_decay": 0.8, "dropout": 0.3},
        DomainPairs,
        lambda: [WeakStrongAugmentation(weak=MIRROR, strong="small_images_strong")],
        moved=("teacher.", "class_share"),
        passes=3,
    ),
    Case(
        SourceFreeModule,
        callbacks=lambda: [WeakStrongAugmentation(weak=MIRROR, strong="small_images_strong")],
        pretrained=True,
    ),
    Case(
        SemiSupervisedModule,
        CONV | {"threshold": "free", "unlabeled_ratio": 1, "average_decay": 0.8, "dropout": 0.3},
        lambda: Images(labels_per_class=3, batch_size=2),
        lambda: [WeakStrongAugmentation(weak=MIRROR, strong="small_images_strong")],
        moved=("threshold.", "class_share"),
    ),
    Case(PrototypicalModule, data=Episodes),
    Case(RelationModule, {}, data=Episodes),
    Case(MAMLModule, data=Episodes, passes=4),
    Case(BYOL, moved=("target.",), passes=4),
    Case(RotationModule),
    Case(CountModule, data=Scenes, syncs=1),
]
VARIANTS: list[Case] = [
    Case(
        SupervisedModule,
        CONV | {"optimizer": "lars", "lr": 0.1, "schedule": "plateau"},
        callbacks=lambda: [Augmentation("small_images"), EMA(0.9)],
        variant="lars, plateau, augmented and averaged",
    ),
    Case(
        SupervisedModule,
        callbacks=lambda: add_support_callbacks([StochasticWeightAveraging(0.01, swa_epoch_start=1)], continues=False),
        variant="stochastic weight averaging",
        epochs=3,
        killed_in=(0, 1),
    ),
    *(
        Case(SupervisedModule, CONV | {"schedule": schedule}, variant=schedule)
        for schedule in ("one_cycle", "exponential")
    ),
    *(
        Case(
            FineTuneModule,
            CONV | options,
            callbacks=callbacks,
            variant=variant,
            epochs=3,
            killed_in=(0, 1),
            pretrained=True,
        )
        for variant, options, callbacks in (
            (
                "gradual unfreezing",
                {"strategy": "gradual_unfreezing", "layer_decay": 0.8},
                lambda: [Augmentation("small_images"), EMA(0.9)],
            ),
            ("cached features", {"strategy": "feature_extraction", "cache_features": True}, list),
            ("L2-SP", {"strategy": "discriminative_lr", "l2_sp": 0.1, "optimizer": "sgd"}, list),
            ("LoRA", {"strategy": "lora", "lora_rank": 4}, lambda: [Augmentation("small_images"), EMA(0.9)]),
        )
    ),
    *(
        Case(cls, options, Scenes, variant=variant, epochs=3, killed_in=(0, 1), pretrained=True)
        for cls, options, variant in (
            (DetectionModule, DENSE | {"strategy": "lora", "lora_rank": 4}, "LoRA"),
            (SegmentationModule, DENSE | {"strategy": "gradual_unfreezing"}, "gradual unfreezing"),
            (MultiTaskModule, CONV | {"tasks": TASKS, "strategy": "discriminative_lr", "l2_sp": 0.1}, "L2-SP"),
            (
                MultiTaskModule,
                CONV
                | {
                    "weighting": "pcgrad",
                    "tasks": {name: TASKS[name] for name in ("shape", "pixels")},
                    "strategy": "freeze_backbone",
                    "frozen_stages": 2,
                },
                "pcgrad, frozen stages",
            ),
        )
    ),
    Case(
        SimCLRModule,
        CONV | {"optimizer": "lars", "lr_scaling": "sqrt"},
        callbacks=lambda: [ContrastiveAugmentation(), OnlineProbe(), EmbeddingEvaluation(), CollapseWarning()],
        variant="lars, with a probe",
    ),
    Case(
        DistillationModule,
        CONV | {"teacher": "conv4", "match": "relations"},
        callbacks=lambda: [Augmentation("small_images"), EMA(0.9)],
        variant="relations, augmented and averaged",
        pretrained=True,
        weights_argument="teacher_weights",
    ),
    Case(
        MoCoModule,
        SMALL_PROJECTOR | {"queue_size": 0},
        callbacks=lambda: [ContrastiveAugmentation(), EMA(0.9)],
        variant="without a queue, averaged",
    ),
    Case(
        DINOModule,
        CONV
        | {
            "prototypes": 24,
            "hidden": 32,
            "bottleneck": 16,
            "decay": 0.8,
            "assignment": "sinkhorn",
            "teacher_warmup_epochs": 2,
            "optimizer": "sgd",
        },
        callbacks=lambda: [ContrastiveAugmentation(), WeightDecaySchedule(0.4)],
        variant="Sinkhorn, weight decay rises",
    ),
    Case(
        DetectionModule,
        DENSE | {"detector": "faster_rcnn"},  # draws random samples of anchors and proposals
        Scenes,
        lambda: [Augmentation(operations=[*MIRROR, {"name": "affine", "scale": [0.8, 1.2]}]), EMA(0.9)],
        variant="Faster R-CNN, augmented and averaged",
    ),
    Case(
        DetectionModule,
        DENSE | {"detector": "mask_rcnn", "class_weight": "balanced"},
        lambda: Scenes(targets="instances"),
        lambda: [Augmentation(operations=[*MIRROR, {"name": "affine", "scale": [0.8, 1.2]}])],
        variant="Mask R-CNN, augmented",
    ),
    *(
        Case(
            MultiTaskModule,
            CONV | {"weighting": weighting, "tasks": {name: TASKS[name] for name in ("shape", "pixels")}},
            Scenes,
            variant=weighting,
            epochs=4,
            killed_in=(2,),
        )
        for weighting in ("dwa", "pcgrad")
    ),
    Case(
        DomainAdversarialModule,
        CONV | {"conditioning": "entropy", "dropout": 0.3},
        lambda: DomainPairs(num_workers=1),
        lambda: [Augmentation("small_images"), EMA(0.9)],
        variant="with a worker, augmented and averaged",
    ),
    Case(
        SemiSupervisedModule,
        CONV | {"threshold": "flex", "confidence": 0.4, "distribution_alignment": True, "unlabeled_ratio": 2},
        lambda: Images(labels_per_class=3, batch_size=2),
        lambda: [WeakStrongAugmentation(weak=MIRROR, strong="small_images_strong"), EMA(0.9)],
        variant="FlexMatch, aligned and averaged",
    ),
    Case(
        SemiSupervisedModule,
        CONV | {"propagation_epochs": 1, "unlabeled_ratio": 1},
        lambda: Images(labels_per_class=3, batch_size=2),
        lambda: [WeakStrongAugmentation(weak=MIRROR, strong="small_images_strong")],
        variant="propagated labels",
        epochs=3,
        killed_in=(0, 1),
    ),
    Case(
        MAMLModule,
        CONV | {"batch_norm": "support", "anil": True, "learn_inner_lr": True},
        Episodes,
        variant="ANIL with learned inner learning rates",
    ),
    Case(
        MultiTaskModule,
        CONV | {"tasks": {"objects": {"type": "tests.contracts.readme.CountTask"}}},
        Scenes,
        variant="a task of an example",
    ),
    Case(
        SupervisedModule,
        data=lambda: ParityDataModule(labels_per_class=40, batch_size=20),
        variant="data of an example",
    ),
]


def _subclasses(cls: type[BaseModule]) -> Iterator[type[BaseModule]]:
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)


def approaches() -> list[type[BaseModule]]:
    """Return every concrete subclass of `BaseModule` in the library and in this folder."""
    packages = [lit_cv.modules, import_module("tests.contracts")]
    for package in packages:
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.name.rpartition(".")[2].startswith(("test_", "conftest")):
                import_module(module.name)
    prefixes = tuple(f"{package.__name__}." for package in packages)
    subclasses = dict.fromkeys(_subclasses(BaseModule))  # type: ignore[type-abstract]
    return [
        cls
        for cls in subclasses
        if cls.__module__.startswith(prefixes) and ".test_" not in cls.__module__ and not inspect.isabstract(cls)
    ]


def cases() -> list[Case]:
    """Return the row of every approach, or the default row if it has none."""
    rows = {row.cls: row for row in ROWS}
    return [rows.get(cls, Case(cls, is_default=True)) for cls in approaches()]
