import math

import lightning as L
import pytest
import torch

from datamodules import DigitsDataModule
from lit_cv import SupervisedModule, WeightDecaySchedule


class Record(L.Callback):
    """Records the weight decay with which each step is taken, by parameter group."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []

    def on_before_zero_grad(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.values.append([group["weight_decay"] for group in optimizer.param_groups])


def fit(weight_decay: float, *callbacks: L.Callback) -> None:
    trainer = L.Trainer(
        max_steps=8, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", limit_val_batches=0, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(SupervisedModule(backbone="conv4", weight_decay=weight_decay), DigitsDataModule())


def test_weight_decay_of_each_step() -> None:
    record = Record()
    fit(0.04, WeightDecaySchedule(0.4), record)
    expected = [0.4 - 0.36 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    seen = [max(values) for values in record.values]
    assert seen[-7:] == pytest.approx(expected[:7]) or seen[:8] == pytest.approx(expected)
    assert all(min(values) == 0 for values in record.values)  # biases and norms


def test_error_names_option() -> None:
    with pytest.raises(ValueError, match="final=-1"):
        WeightDecaySchedule(-1)


def test_error_without_weight_decay() -> None:
    with pytest.raises(ValueError, match=r"weight_decay=0\.0: must be above 0.*WeightDecaySchedule"):
        fit(0.0, WeightDecaySchedule(0.4))
