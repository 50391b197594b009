"""A classifier whose predictions are encoded in its images, and a Trainer with this project's loggers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lit_cv.metrics_csv import MetricsCSVLogger

CLASSES = 4


def images_predicting(predicted: list[int], confidence: list[float]) -> Tensor:
    """(N, 1, 4, 4) uint8: the first pixel is the class that the classifier predicts, the second its logit."""
    images = torch.zeros(len(predicted), 1, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(predicted)
    images[:, 0, 0, 1] = torch.tensor(confidence).mul(10).to(torch.uint8)
    return images


class Batches:
    """Yields the same batches in every epoch."""

    def __init__(self, *batches: dict[str, Tensor]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (dict(batch) for batch in self.batches)


class Data(L.LightningDataModule):
    def __init__(self, train: Any, val: Any = None, class_names: list[str] | None = None) -> None:
        super().__init__()
        self.train, self.val = train, val
        if class_names is not None:
            self.class_names = class_names

    def train_dataloader(self) -> Any:
        return self.train

    def val_dataloader(self) -> Any:
        return self.val if self.val is not None else []


class Oracle(L.LightningModule):
    """Predicts what the images encode; `val_acc` takes its values from a list, one per epoch."""

    monitor = "val_acc"
    mode = "max"

    def __init__(self, scores: list[float] | None = None, lr: float = 0.1, nested: dict[str, Any] | None = None):
        super().__init__()
        self.save_hyperparameters()
        self.scale = nn.Parameter(torch.ones(()))
        self.fail_at: tuple[int, type[BaseException]] | None = None

    def forward(self, images: Tensor) -> Tensor:
        predicted, confidence = images[:, 0, 0, 0].long(), images[:, 0, 0, 1].float() / 10
        return F.one_hot(predicted, CLASSES).float() * confidence[:, None]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        if self.fail_at is not None and self.global_step == self.fail_at[0]:
            raise self.fail_at[1]("on purpose")
        loss = (self.scale - 0.5).square()
        self.log("train_loss_step", loss)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return {"loss": loss}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits, target = self(batch["image"]), batch["label"]
        scores = self.hparams["scores"] or [0.5]
        self.log("val_acc", scores[min(self.current_epoch, len(scores) - 1)], batch_size=1)
        self.log("val_loss", 1.0, batch_size=1)
        return {"loss": logits.sum(), "logits": logits, "target": target}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


def train_batches(n: int = 3, size: int = 4) -> Batches:
    label = torch.arange(size) % CLASSES
    return Batches(*({"image": images_predicting(label.tolist(), [1.0] * size), "label": label} for _ in range(n)))


def run_trainer(folder: Path, callbacks: list[L.Callback], **kwargs: Any) -> L.Trainer:
    """Return a Trainer that logs to `folder`."""
    board = TensorBoardLogger(folder.parent, folder.name, version="", default_hp_metric=False)
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": [board, MetricsCSVLogger(str(folder))],
        "callbacks": callbacks,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "max_epochs": 2,
    }
    return L.Trainer(**defaults | kwargs)


def board(folder: Path) -> EventAccumulator:
    """Read TensorBoard's file back."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events
