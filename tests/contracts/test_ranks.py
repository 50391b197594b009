"""A step on two ranks equals a step on their joined batch, for every approach.

Each rank takes a part of the batch, and the gradients are averaged, as by DistributedDataParallel. BatchNorm is in eval
mode, since its statistics would cover only the part of each rank. The batches in `TABLE` lack different labels, boxes
or pixels on each rank; approaches without an entry there use the first batch of a run.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

import lit_cv
from lit_cv.callbacks import OnlineProbe
from lit_cv.distributed import full_parameters, is_distributed
from tests.contracts.cases import VARIANTS, cases
from tests.contracts.runs import Run
from tests.modules.episodes import episode_batch
from tests.processes import run_ranks

N = 6  # images of the joined batch
Batch = dict[str, Any]


def draw(*shape: int, high: int = 256, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def labeled() -> Batch:
    return {"image": draw(N, 3, 32, 32), "label": torch.tensor([0, 0, 1, 2, 2, 2])}


def partly_labeled() -> Batch:
    return labeled() | {"label": torch.tensor([0, -1, 1, -1, -1, 2])}


def semi_supervised() -> Batch:
    """Two labeled images on one rank, one on the other."""
    batch = partly_labeled()
    return batch | {"strong": batch["image"][batch["label"] < 0].flip(3), "index": torch.arange(6)}


def partly_mixed() -> Batch:
    """Soft labels, some of which sum to less than 1 or to 0."""
    return labeled() | {
        "label": torch.eye(3)[[0, 1, 2, 0, 1, 2]] * torch.tensor([1.0, 0.4, 0.0, 0.7, 1.0, 1.0])[:, None]
    }


def several_labels() -> Batch:
    """Three unknown labels on rank 0, and an image without any known label on rank 1."""
    label = draw(N, 3, high=2, dtype=torch.int64)
    label[:3, 1], label[4] = -1, -1
    return labeled() | {"label": label}


def views() -> Batch:
    return {"views": draw(2, N, 3, 32, 32), "label": torch.tensor([0, 0, 1, 1, -1, 0])}


def local_views() -> Batch:
    return views() | {"local_views": draw(3, N, 3, 16, 16)}


def one_view() -> Batch:
    """Classes with a single image, which have no positive pair; rank 0 has more of them."""
    return {"views": draw(1, N, 3, 32, 32), "label": torch.tensor([0, -1, 1, 0, 2, 2])}


def numbered() -> Batch:
    return {"image": draw(N, 3, 32, 32), "index": torch.arange(N)}


def boxes() -> Batch:
    """Three objects on rank 0, none on rank 1."""
    box = torch.tensor([[4.0, 4.0, 20.0, 24.0]])
    boxes = [box, box + 6, box + 3, box[:0], box[:0], box[:0]]
    labels = [torch.full((len(of_image),), i % 2) for i, of_image in enumerate(boxes)]
    return {"image": draw(N, 3, 32, 32), "boxes": boxes, "box_labels": labels}


def masks() -> Batch:
    """Most pixels on rank 1 are unknown, and one class occurs only on rank 0."""
    mask = draw(N, 32, 32, high=2, dtype=torch.int64)
    mask[0, :8] = 2
    mask[4:, 8:] = 255
    return {"image": draw(N, 3, 32, 32), "mask": mask}


def several_targets() -> Batch:
    return boxes() | masks() | partly_labeled()


def domains() -> Batch:
    image = draw(2, N, 3, 32, 32)[1] // 2
    return {"source": labeled(), "target": {"image": image, "strong": image.flip(-1)}}


def episodes() -> Batch:
    return episode_batch(count=N)


SMALL = {"backbone": "conv4", "image_size": 32, "num_classes": 3}
PROJECTED = {"backbone": "conv4", "image_size": 32, "projector_hidden": 32, "projector_dim": 16}
PROTOTYPES = {"backbone": "conv4", "image_size": 32, "prototypes": 24, "hidden": 32, "bottleneck": 16}
ADAPT = SMALL | {"ramp": None}
DENSE = {"backbone": "resnet9_small", "image_size": 32, "channels": 32}
MATCH = ADAPT | {"layers": ["blocks.2", "features", "logits"]}
EPISODES = {"backbone": "conv4", "in_channels": 1, "image_size": 16}
MASKED = {"backbone": "vit_micro_p4", "image_size": 32, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}
TASKS = {
    "kind": {"type": "classification", "key": "label", "num_classes": 3},
    "objects": {"type": "detection", "classes": ["a", "b"], "channels": 32, "strides": [4, 8]},
    "pixels": {"type": "segmentation", "classes": ["a", "b", "c"], "channels": 32, "dropout": 0.0},
}
TABLE: dict[str, tuple[str, dict[str, Any], Callable[[], Batch]]] = {
    "supervised": ("SupervisedModule", SMALL | {"label_smoothing": 0.1}, labeled),
    "supervised, classes weighted": ("SupervisedModule", SMALL, labeled),
    "supervised, partly labeled": ("SupervisedModule", SMALL, partly_labeled),
    "supervised, partly labeled, classes weighted": ("SupervisedModule", SMALL, partly_labeled),
    "supervised, mixed": ("SupervisedModule", SMALL | {"label_smoothing": 0.1}, partly_mixed),
    "supervised, mixed, classes weighted": ("SupervisedModule", SMALL, partly_mixed),
    "several labels": ("SupervisedModule", SMALL | {"multi_label": True}, several_labels),
    "fine-tuning": ("FineTuneModule", SMALL | {"strategy": "discriminative_lr"}, labeled),
    "SimCLR": ("SimCLRModule", {"backbone": "conv4", "image_size": 32}, views),
    "SupCon": ("SimCLRModule", {"backbone": "conv4", "image_size": 32, "supervised": True}, views),
    "SupCon, one view": ("SimCLRModule", {"backbone": "conv4", "image_size": 32, "supervised": True}, one_view),
    **{
        f"distillation of {match}": (
            "DistillationModule",
            {"backbone": "conv4", "image_size": 32, "teacher": "lenet", "match": match, "teacher_classes": 3},
            numbered,
        )
        for match in ("features", "logits", "relations")
    },
    "BYOL": ("BYOLModule", PROJECTED, views),
    "MoCo": ("MoCoModule", PROJECTED | {"queue_size": 16}, views),
    "MoCo v3": ("MoCoModule", PROJECTED | {"queue_size": 0}, views),
    "VICReg": ("VICRegModule", PROJECTED, views),
    "Barlow Twins": ("BarlowTwinsModule", PROJECTED, views),
    "LeJEPA": ("LeJEPAModule", PROJECTED, local_views),
    "DINO": ("DINOModule", PROTOTYPES, local_views),
    "DINO, Sinkhorn": ("DINOModule", PROTOTYPES | {"assignment": "sinkhorn"}, local_views),
    "MAE": (
        "MAEModule",
        {"backbone": "vit_micro_p4", "image_size": 32, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
        numbered,
    ),
    "FCOS": ("DetectionModule", DENSE | {"box_classes": ["a", "b"], "detector": "fcos"}, boxes),
    "RetinaNet": ("DetectionModule", DENSE | {"box_classes": ["a", "b"], "detector": "retinanet"}, boxes),
    "FCOS, classes weighted": ("DetectionModule", DENSE | {"box_classes": ["a", "b"], "detector": "fcos"}, boxes),
    "segmentation": ("SegmentationModule", DENSE | {"mask_classes": ["a", "b", "c"], "dropout": 0.0}, masks),
    "segmentation, classes weighted": (
        "SegmentationModule",
        DENSE | {"mask_classes": ["a", "b", "c"], "dropout": 0.0},
        masks,
    ),
    "several tasks": (
        "MultiTaskModule",
        {"backbone": "resnet9_small", "image_size": 32, "weighting": "equal", "tasks": TASKS},
        several_targets,
    ),
    "DANN": ("DomainAdversarialModule", ADAPT | {"conditioning": "none"}, domains),
    "CDAN+E": ("DomainAdversarialModule", ADAPT | {"conditioning": "entropy"}, domains),
    "MMD": ("MMDModule", MATCH | {"distance": "mmd"}, domains),
    "MMD, linear": ("MMDModule", MATCH | {"distance": "mmd", "estimator": "linear"}, domains),
    "joint MMD": ("MMDModule", MATCH | {"distance": "joint_mmd"}, domains),
    "CORAL": ("MMDModule", MATCH | {"distance": "coral"}, domains),
    "class confusion": ("ClassConfusionModule", ADAPT, domains),
    "self-training": ("SelfTrainingModule", ADAPT | {"threshold": 0.3}, domains),
    "source-free": ("SourceFreeModule", SMALL | {"pseudo_label_weight": 0.0}, numbered),
    "semi-supervised": ("SemiSupervisedModule", SMALL | {"confidence": 0.3}, semi_supervised),
    "semi-supervised, aligned": (
        "SemiSupervisedModule",
        SMALL | {"confidence": 0.3, "distribution_alignment": True, "average_decay": 0.5},
        semi_supervised,
    ),
    "semi-supervised, FreeMatch": (
        "SemiSupervisedModule",
        SMALL | {"threshold": "free", "average_decay": 0.5, "fairness_weight": 0.3},
        semi_supervised,
    ),
    "prototypical": ("PrototypicalModule", EPISODES, episodes),
    "relation": ("RelationModule", EPISODES, episodes),
    "MAML": ("MAMLModule", EPISODES | {"way": 3}, episodes),
}


class StepResult(NamedTuple):
    """Loss and gradients of a step, and the module's state after the update of the weights."""

    loss: Tensor
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


Factory = Callable[[], tuple[Any, Batch]]


def part(values: Any, rows: slice, name: str = "") -> Any:
    if isinstance(values, dict):
        parts = {key: part(value, rows, key) for key, value in values.items()}
        if "strong" in values and "label" in values:  # views of the unlabeled images alone
            unlabeled = values["label"] < 0
            chosen = torch.zeros_like(unlabeled)
            chosen[rows] = True
            parts["strong"] = values["strong"][chosen[unlabeled]]
        return parts
    return values[:, rows] if name in ("views", "local_views") else values[rows]


def from_table(name: str) -> tuple[Any, Batch]:
    """Return the module of an entry in the table, and its joined batch."""
    kind, options, batch = TABLE[name]
    torch.manual_seed(0)
    module: Any = getattr(lit_cv, kind)(**options)
    module.configure_model()
    if "views" in batch():  # moving averages depend on the step
        module._trainer = SimpleNamespace(global_step=0, current_epoch=0, estimated_stepping_batches=10)
    if kind.startswith(("Domain", "MMD")):  # make features and predictions differ more between the domains
        for weight in (p for p in module.parameters() if p.ndim > 1):
            weight.data.mul_(3)
    if "weighted" in name:
        module.task.class_weight = torch.tensor([1.0, 2.0, 5.0])[-len(module.task.names) :]
    return module, batch()


def from_run(run: Run) -> tuple[Any, Batch]:
    """Return copies of a run's module and of its first batch."""
    module = copy.deepcopy(run.module)
    module.trainer = run.trainer
    return module, copy.deepcopy(run.recorder.batches["train"])


def train_step(name: str, factory: Factory, rank: int = 0, ranks: int = 1) -> StepResult:
    """Do a training step on the batch, or on each rank's part of it with averaged gradients."""
    module, batch = factory()
    module.train()
    for each in module.modules():
        if (
            isinstance(each, nn.Dropout | nn.modules.batchnorm._BatchNorm) and name != "MAML"
        ):  # its statistics are of one episode
            each.eval()
    first = batch["source"]["label"] if "source" in batch else batch.get("label", next(iter(batch.values())))
    size = len(first["image"] if isinstance(first, dict) else first)
    rows = slice(rank * size // ranks, (rank + 1) * size // ranks)
    stage = "val" if name == "MAE" else "train"  # validation masks depend only on the image, training masks on the rank
    output = module.step(part(batch, rows), stage)
    output["loss"].backward()
    loss = output["loss"].detach()
    trained = {key: value for key, value in module.named_parameters() if value.grad is not None}
    if is_distributed():
        for value in (loss, *(parameter.grad for parameter in trained.values())):
            torch.distributed.all_reduce(value)
            value /= 2
    gradients = {key: value.grad.clone() for key, value in trained.items()}
    with torch.no_grad():
        for parameter in trained.values():
            parameter -= 0.1 * parameter.grad
        module.after_step()
    state = {
        key: value
        for key, value in module.state_dict().items()
        if key not in gradients and not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    return StepResult(loss, gradients, state)


def groups_under_fsdp() -> list[list[tuple[str, int]]]:
    """Return the number of parameters of each group, before and after wrapping by FSDP."""
    module = lit_cv.MAEModule(**MASKED)
    module.configure_model()
    before = module.parameter_groups()
    blocks = ModuleWrapPolicy({type(block) for block in module.compiled_networks()})
    cpu = torch.device("cpu")
    wrapped = FullyShardedDataParallel(module, auto_wrap_policy=blocks, use_orig_params=True, device_id=cpu)
    with full_parameters(wrapped):
        after = module.parameter_groups()
    return [[(group["name"], len(group["params"])) for group in groups] for groups in (before, after)]


FROM_RUNS = [
    case
    for case in cases()
    if "ranks" not in case.not_promised and case.cls.__name__ not in {kind for kind, _, _ in TABLE.values()}
]
FROM_RUNS += [case for case in VARIANTS if case.name == "FineTuneModule, LoRA"]


def probe_gradient(rows: slice) -> Tensor:
    """Return the gradient of an online probe on partly labeled images; both halves of the batch share features."""
    probe = OnlineProbe()
    features = torch.randn(N // 2, 5, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(num_classes=3))
    batch = {"label": partly_labeled()["label"][rows]}
    probe.on_train_batch_end(trainer, L.LightningModule(), {"embedding": features[rows]}, batch, 0)
    assert probe._probe is not None
    gradient = probe._probe[1].weight.grad
    assert gradient is not None
    return gradient


def run_rank(rank: int, folder: str, factories: Mapping[str, Factory]) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results: dict[str, Any] = {}
    for name in factories:
        results[name] = tuple(train_step(name, factories[name], rank, ranks=2))
    results["probe"] = probe_gradient(slice(rank * N // 2, (rank + 1) * N // 2))
    results["fsdp"] = groups_under_fsdp()
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def factories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Factory]:
    """Functions that build the module and the joined batch of every approach."""
    runs = {case.name: Run(case, tmp_path_factory.mktemp("run"), seed=1) for case in FROM_RUNS}
    return {
        **{name: partial(from_table, name) for name in TABLE},
        **{name: partial(from_run, run) for name, run in runs.items()},
    }


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, factories: dict[str, Factory]) -> dict[str, Any]:
    """Results of two ranks, by approach."""
    folder: Path = tmp_path_factory.mktemp("two")
    run_ranks(run_rank, str(folder), factories)
    results: dict[str, Any] = torch.load(folder / "0.pt", weights_only=True)
    return results


@pytest.mark.parametrize("name", [*TABLE, *(case.name for case in FROM_RUNS)])
def test_step_on_two_ranks_equals_one(name: str, two_ranks: dict[str, Any], factories: dict[str, Factory]) -> None:
    two, one = StepResult(*two_ranks[name]), train_step(name, factories[name])
    torch.testing.assert_close(two.loss, one.loss, rtol=1e-4, atol=1e-6)
    assert two.gradients.keys() == one.gradients.keys()
    scale = max(float(gradient.abs().max()) for gradient in one.gradients.values())
    for key, gradient in one.gradients.items():
        torch.testing.assert_close(two.gradients[key], gradient, rtol=1e-3, atol=1e-4 * scale, msg=key)
    assert two.state.keys() == one.state.keys()
    for key, value in one.state.items():
        torch.testing.assert_close(two.state[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_probe_on_two_ranks_equals_one(two_ranks: dict[str, Any]) -> None:
    torch.testing.assert_close(two_ranks["probe"], probe_gradient(slice(N)), rtol=1e-4, atol=1e-6)


def test_weight_decay_groups_are_kept_by_fsdp(two_ranks: dict[str, Any]) -> None:
    before, after = two_ranks["fsdp"]
    assert dict(after) == dict(before)
    assert dict(before)["decay"] > 20
