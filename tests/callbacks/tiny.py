"""A LightningModule with two parameters, for tests of callbacks."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Tiny(L.LightningModule):
    """Linear regression; its validation metric takes its values from a list."""

    monitor = "val_score"
    mode = "max"

    def __init__(self, scores: list[float] | None = None, lr: float = 0.1) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(2)
        self.scores = scores
        self.lr = lr
        self.weights: list[Tensor] = []  # after each step
        self.validated: list[Tensor] = []  # at each validation

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(self.norm(batch)).square().mean()

    def on_train_batch_end(self, *args: Any) -> None:
        self.weights.append(self.layer.weight.detach().clone())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(self.layer.weight.detach().clone())
        if self.scores is not None:
            self.log("val_score", self.scores[min(self.current_epoch, len(self.scores) - 1)])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def loader(batches: int = 4) -> DataLoader[Any]:
    data = torch.randn(batches * 8, 2, generator=torch.Generator().manual_seed(0))
    return DataLoader(data, batch_size=8)  # type: ignore[arg-type]


def trainer(folder: Any, **kwargs: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any("Checkpoint" in type(c).__name__ for c in kwargs.get("callbacks", [])),
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(**defaults | kwargs)
