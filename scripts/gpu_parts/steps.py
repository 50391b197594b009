"""Training steps of the approaches: images per second and memory, and timm's network alone as the ceiling.

All train in bfloat16 and channels_last, with augmentation, on one batch that is already on the device.
"""

import gc
import time
from collections.abc import Callable
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lit_cv
from gpu_parts.measuring import peak_memory, random_images, reset_peak_memory, synchronize
from gpu_parts.setting import Setting, require
from lit_cv.callbacks import Augmentation, ContrastiveAugmentation, WeakStrongAugmentation

__all__ = ["items", "run"]

CLASSES = 100
WARMUP, STEPS = 6, 16
Batch = dict[str, Any]


def labeled(images: Tensor) -> Batch:
    """Images with labels."""
    return {"image": images, "label": _labels(images), "index": _positions(images)}


def partly_labeled(images: Tensor) -> Batch:
    """A quarter of the images with labels."""
    labels = _labels(images)
    labels[len(labels) // 4 :] = -1
    return labeled(images) | {"label": labels}


def boxes(images: Tensor) -> Batch:
    """Two objects per image."""
    side = images.shape[-1]
    corners = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.8]], device=images.device) * side
    classes = torch.tensor([0, 1], device=images.device)
    return {"image": images, "boxes": [corners] * len(images), "box_labels": [classes] * len(images)}


def masks(images: Tensor) -> Batch:
    """A class for each pixel."""
    return {"image": images, "mask": (images[:, 0] > 128).long()}


def domains(images: Tensor) -> Batch:
    """Half of the images from each of two domains."""
    source, target = images.chunk(2)
    return {"source": labeled(source), "target": {"image": target}}


def views() -> L.Callback:
    """Two views as in SimCLR."""
    return ContrastiveAugmentation()


def crops() -> L.Callback:
    """Crop and flip."""
    return Augmentation(policy="photographs")


def weak_and_strong() -> L.Callback:
    """Views for FixMatch."""
    return WeakStrongAugmentation("photographs", "photographs_strong")


CLASSIFIER = {"num_classes": CLASSES}
PROJECTOR = {"projector_hidden": 2048, "projector_dim": 2048}
APPROACHES: dict[str, tuple[str, dict[str, Any], Callable[[Tensor], Batch], Callable[[], L.Callback] | None]] = {
    "supervised": ("SupervisedModule", CLASSIFIER, labeled, crops),
    "simclr": ("SimCLRModule", {}, labeled, views),
    "mae": ("MAEModule", {}, labeled, crops),
    "semi_supervised": ("SemiSupervisedModule", CLASSIFIER, partly_labeled, weak_and_strong),
    "fine_tune": ("FineTuneModule", CLASSIFIER | {"strategy": "freeze_backbone"}, labeled, crops),
    "segmentation": ("SegmentationModule", {"mask_classes": ["a", "b"]}, masks, None),
    "detection": ("DetectionModule", {"box_classes": ["a", "b"]}, boxes, None),
    "dino": ("DINOModule", {"prototypes": 16384}, labeled, views),
    "byol": ("BYOLModule", PROJECTOR | {"projector_dim": 256}, labeled, views),
    "moco": ("MoCoModule", {}, labeled, views),
    "vicreg": ("VICRegModule", PROJECTOR, labeled, views),
    "barlow_twins": ("BarlowTwinsModule", PROJECTOR, labeled, views),
    "adversarial": ("DomainAdversarialModule", CLASSIFIER, domains, crops),
}
"""Class, options, batch of images, and augmentation of each approach."""


class Meter(L.Callback):
    """Measures the steps after the first ones."""

    def __init__(self, setting: Setting, warmup: int, steps: int) -> None:
        self._setting, self._ends = setting, {warmup, warmup + steps}
        self._seconds: list[float] = []
        self.loss: Tensor | None = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        """Read the clock at both ends."""
        if trainer.fit_loop.epoch_loop.batch_idx + 1 in self._ends:
            synchronize(self._setting)
            self._seconds.append(time.perf_counter())
            if len(self._seconds) == 1:
                reset_peak_memory(self._setting)
            self.loss = outputs["loss"]

    @property
    def seconds(self) -> float:
        """Seconds of the measured steps."""
        return self._seconds[1] - self._seconds[0]


def items(setting: Setting) -> dict[str, list[str]]:
    """Return approach and backbone, the most important first."""
    if setting.tiny:
        return {"items": ["network resnet18", *(f"{name} {_backbone(name, 'conv4')}" for name in list(APPROACHES)[:2])]}
    items = [f"{name} {_backbone(name, 'resnet50')}" for name in ("network", *list(APPROACHES)[:3])]
    items += [f"{name} resnet18" for name in ("network", "supervised", "simclr")]
    return {"items": items + [f"{name} resnet50" for name in list(APPROACHES)[3:]]}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Train some steps, and return images per second and peak memory."""
    approach, backbone = item.split()
    side, count = (224, 128) if setting.device == "cuda" else (32, 4)
    warmup, steps = (WARMUP, STEPS) if setting.device == "cuda" else (1, 1)
    gc.collect()  # frees the previous module
    images = random_images(count, side, setting)
    measure = _measure_network if approach == "network" else _measure_approach
    seconds, loss = measure(approach, backbone, images, setting, warmup, steps)
    memory = peak_memory(setting)
    require(bool(torch.isfinite(torch.tensor(loss))), f"the loss is {loss}")
    return {
        "images_per_second": round(count * steps / seconds),
        "milliseconds": round(1e3 * seconds / steps, 1),
        "gib": None if memory is None else round(memory / 2**30, 2),
        "batch": count,
    }


def _measure_approach(
    approach: str, backbone: str, images: Tensor, setting: Setting, warmup: int, steps: int
) -> tuple[float, float]:
    kind, options, batch, augmentation = APPROACHES[approach]
    side = images.shape[-1]
    module: Any = getattr(lit_cv, kind)(backbone=backbone, image_size=side, in_channels=3, lr=1e-4, **options)
    meter = Meter(setting, warmup, steps)
    trainer = L.Trainer(
        accelerator="gpu" if setting.device == "cuda" else "cpu",
        devices=1,
        precision="32-true" if setting.tiny else "bf16-mixed",  # some processors are slow in bfloat16
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=setting.folder,
        callbacks=[*([augmentation()] if augmentation else []), meter],
    )
    trainer.fit(module, DataLoader(cast(Any, [batch(images)] * (warmup + steps)), batch_size=None))
    assert meter.loss is not None
    return meter.seconds, float(meter.loss)


def _measure_network(
    approach: str, backbone: str, images: Tensor, setting: Setting, warmup: int, steps: int
) -> tuple[float, float]:
    """Train a network of timm, or torchvision's if timm is missing, on ready float images in a plain loop."""
    network = _network(backbone).to(setting.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=setting.device == "cuda")
    ready = images.float().div_(255).contiguous(memory_format=torch.channels_last)
    labels, start = _labels(images), 0.0
    for step in range(warmup + steps):
        if step == warmup:
            synchronize(setting)
            reset_peak_memory(setting)
            start = time.perf_counter()
        with torch.autocast(setting.device, torch.bfloat16):
            loss = F.cross_entropy(network(ready), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    synchronize(setting)
    return time.perf_counter() - start, float(loss)


def _network(name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        import torchvision

        network: nn.Module = getattr(torchvision.models, name)(num_classes=CLASSES)
        return network
    network = timm.create_model(name, num_classes=CLASSES)
    return network


def _backbone(approach: str, other: str) -> str:
    if approach != "mae":
        return other
    return "vit_base_p16" if other == "resnet50" else "vit_micro_p4"


def _labels(images: Tensor) -> Tensor:
    return torch.arange(len(images), device=images.device) % CLASSES


def _positions(images: Tensor) -> Tensor:
    return torch.arange(len(images), device=images.device)
