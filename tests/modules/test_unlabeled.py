"""Means over labeled images do not depend on the division into batches, and are absent without labels."""

import copy
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

import lit_cv
from datamodules.loader import collate

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip
N = 8
CLASSES: dict[str, Any] = {"backbone": "conv4", "num_classes": 6, "in_channels": 1}
DENSE: dict[str, Any] = {"backbone": "resnet9_small", "channels": 32, "image_size": 32, "in_channels": 1}
TASKS: dict[str, Any] = {
    "kind": {"type": "classification", "key": "label", "num_classes": 6}, "light": {"type": "regression"},
    "pixels": {"type": "segmentation", "classes": ["a", "b"], "channels": 32},
    "objects": {"type": "detection", "classes": ["a", "b"], "channels": 32, "strides": [4, 8]},
}  # fmt: skip
MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("SupervisedModule", CLASSES | {"per_class_metrics": True}),
    "several labels": ("SupervisedModule", CLASSES | {"multi_label": True}),
    "fine-tuning": ("FineTuneModule", CLASSES),
    "DANN": ("DomainAdversarialModule", CLASSES),
    "MMD": ("MMDModule", CLASSES),
    "self-training": ("SelfTrainingModule", CLASSES | {"per_class_metrics": True}),
    "source alone": ("MMDModule", CLASSES | {"source_only": True}),
    "segmentation": ("SegmentationModule", DENSE | {"mask_classes": ["a", "b"], "dice_weight": 0.0}),
    "FCOS": ("DetectionModule", DENSE | {"box_classes": ["a", "b"]}),
    "RetinaNet": ("DetectionModule", DENSE | {"box_classes": ["a", "b"], "detector": "retinanet"}),
    "multi-task": ("MultiTaskModule", {name: DENSE[name] for name in DENSE if name != "channels"} | {"tasks": TASKS}),
    "MAE": ("MAEModule", {"backbone": "vit_micro_p8", "in_channels": 1, "image_size": 32, "decoder_width": 32}),
}
DOMAINS = ("DANN", "MMD", "self-training", "source alone")
JUDGED_BY_LABELS = [name for name in MODULES if name != "MAE"]
NOTHING = torch.zeros(0, dtype=torch.int64)


def images() -> list[dict[str, Any]]:
    """Images with more unknown labels in the first half and more correct predictions in the second half."""
    generator = torch.Generator().manual_seed(0)

    def draw(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=generator)

    items = []
    for i in range(N):
        mask = draw(2, 32, 32)
        mask[: 30 - 4 * i] = 255
        corner = draw(10, 2).float()
        boxes = torch.cat([corner, corner + 12])[None].repeat(1 + i % 3, 1) + draw(6, 1 + i % 3, 1)
        several = draw(2, 6)
        several[: 5 - i] = -1
        items.append(
            {
                "image": draw(256, 1, 32, 32).to(torch.uint8),
                "label": torch.tensor(-1 if i in (0, 1, 3, 6) else i % 6),
                "several": several,
                "light": torch.tensor(torch.nan if i < 3 else float(i)),
                "mask": mask,
                "boxes": boxes,
                "box_labels": draw(2, len(boxes)),
                "index": i,
            }
        )
    return items


def unlabeled() -> list[dict[str, Any]]:
    items = images()
    for item in items:
        item["label"], item["several"] = torch.tensor(-1), torch.full((6,), -1)
        item["light"], item["mask"] = torch.tensor(torch.nan), torch.full((32, 32), 255)
        item["boxes"], item["box_labels"] = torch.zeros(0, 4), NOTHING
        item["boxes_known"] = torch.tensor(False)
    return items


class Batches(L.LightningDataModule):
    def __init__(self, name: str, items: list[dict[str, Any]], sizes: list[int], domain: int = 1) -> None:
        super().__init__()
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.batches = [collate(items[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
        for batch in self.batches:
            if name in DOMAINS:
                batch["domain"] = torch.full((len(batch["image"]),), domain)
            if name == "several labels":
                batch["label"] = batch["several"]

    def val_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    test_dataloader = val_dataloader


def built(name: str) -> L.LightningModule:
    kind, options = MODULES[name]
    torch.manual_seed(0)
    module: Any = getattr(lit_cv, kind)(**copy.deepcopy(options))
    module.configure_model()
    return module  # type: ignore[no-any-return]


def validated(name: str, data: L.LightningDataModule) -> Mapping[str, float]:
    return L.Trainer(**QUIET).validate(built(name), data, verbose=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize("domain", [0, 1])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:No positive samples")
def test_epoch_means_do_not_depend_on_batches(name: str, domain: int) -> None:
    if domain == 0 and name not in DOMAINS:
        pytest.skip("has no domains")
    one_batch, parts = (validated(name, Batches(name, images(), sizes, domain)) for sizes in ([N], [3, 1, 4]))
    # The Dice loss of a batch is not a mean over its images.
    with_dice = ("val_pixels_dice_loss", "val_pixels_loss", "val_dice_loss", "val_loss" if name == "multi-task" else "")
    expected = {key: value for key, value in one_batch.items() if key not in with_dice}
    assert len(expected) > 1
    assert {key: parts[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("name", JUDGED_BY_LABELS)
def test_no_loss_and_metrics_without_labels(name: str) -> None:
    data, trainer = Batches(name, unlabeled(), [3, 5]), L.Trainer(**QUIET)
    # Domain adaptation has a score without labels.
    warning = nullcontext() if name in DOMAINS else pytest.warns(UserWarning, match=r"no (image|pixel) of the val")
    with warning:
        logged = trainer.validate(built(name), data, verbose=False)[0]
    if name in ("FCOS", "RetinaNet"):  # their loss is defined without objects
        logged = {key: value for key, value in logged.items() if "loss" not in key and not math.isnan(value)}
    words = ("acc", "f1", "ece", "iou", "r2", "map", "loss", "precision")
    assert [key for key in logged if any(word in key for word in words)] == []


def test_accuracy_over_batches_of_different_sizes() -> None:
    for name, prefix in (("source alone", "target_"), ("supervised", "")):
        module: Any = built(name).eval()
        logits = torch.eye(6)[torch.ones(16, dtype=torch.int64)] + 1e-3 * torch.randn(16, 6)
        module.head.forward = lambda features, logits=logits: logits
        labels = [torch.zeros(16, dtype=torch.int64), torch.tensor([1] + [-1] * 15)]
        for label in labels:
            module.validation_step({"image": torch.zeros(16, 1, 8, 8, dtype=torch.uint8), "label": label}, 0)
        losses = F.cross_entropy(logits.repeat(2, 1), torch.cat(labels), ignore_index=-1)
        assert float(module.means["val"].compute()[f"{prefix}loss"]) == pytest.approx(float(losses), rel=1e-5)
        metrics = module.means["val"].compute() | module.metrics["val"].compute()
        assert float(metrics["target_acc" if prefix else "val_acc"]) == pytest.approx(1 / 17)


@pytest.mark.parametrize("name", ["supervised", "several labels", "fine-tuning"])
def test_unlabeled_training_batches_change_nothing(name: str) -> None:
    module: Any = built(name).eval()
    batch, labeled = (Batches(name, items, [N]).batches[0] for items in (unlabeled(), images()))
    output = module._run_step(batch, "train")
    output["loss"].backward()
    assert output["loss"] == 0
    assert not any(p.grad.any() for p in module.parameters() if p.grad is not None)
    assert module.means["train"].compute() == {}
    output = module._run_step(labeled, "train")
    assert float(module.means["train"].compute()["loss"]) == pytest.approx(float(output["loss"].detach()), rel=1e-5)
