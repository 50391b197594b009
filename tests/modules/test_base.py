"""Hooks of BaseModule: changes made after a step are in the checkpoints of that step."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from datamodules import DigitsDataModule
from lit_cv import BaseModule
from lit_cv.callbacks import LearningRateLog
from lit_cv.cli import console

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0, "limit_val_batches": 0,
}  # fmt: skip
OWN = """
from lit_cv import SupervisedModule

class LateModule(SupervisedModule):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.count = batch_idx
"""


class Recording(BaseModule):
    """Records the order of events."""

    def __init__(self, broken: int = -1, **kwargs: Any) -> None:
        super().__init__(**{"backbone": "conv4", "optimizer": "sgd", "schedule": "constant"} | kwargs)
        self.events: list[tuple[str, int]] = []
        self.weights: list[Tensor] = []

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Linear(num_features, 10)

    def step(self, batch: Any, stage: Any) -> Any:
        loss = F.cross_entropy(self(batch["image"]), batch["label"])
        return {"loss": loss * torch.inf if self.global_step == self.hparams["broken"] else loss}

    def after_step(self) -> None:
        assert not torch.is_grad_enabled()
        self.events.append(("module", self.global_step))
        self.weights.append(self.head.weight.clone())


class Watch(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        pl_module.events.append(("callback", trainer.global_step))


def fit(module: BaseModule, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**QUIET | {"max_epochs": 1} | options)
    trainer.fit(module, DigitsDataModule(labels_per_class=8, batch_size=16))  # 5 batches
    return trainer


def test_after_step_runs_before_callbacks() -> None:
    module = Recording()
    fit(module, callbacks=[Watch()])
    assert module.events == [(who, step + (who == "callback")) for step in range(5) for who in ("module", "callback")]
    assert all(not torch.equal(a, b) for a, b in zip(module.weights, module.weights[1:], strict=False))
    assert torch.equal(module.weights[-1], module.head.weight)


def test_after_step_runs_once_per_accumulation() -> None:
    module = Recording()
    assert fit(module, callbacks=[Watch()], accumulate_grad_batches=2).global_step == 3
    assert [step for who, step in module.events if who == "module"] == [0, 1, 2]
    assert [who for who, _ in module.events] == [
        "callback", "module", "callback", "callback", "module", "callback", "module", "callback"
    ]  # fmt: skip


def test_after_step_runs_after_skipped_steps() -> None:
    module = Recording(broken=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    trainer = fit(module, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert scaler.get_scale() == 2.0**7
    assert [step for _, step in module.events] == list(range(5))
    assert trainer.global_step == 5
    same = [torch.equal(a, b) for a, b in zip(module.weights, module.weights[1:], strict=False)]
    assert same == [False, True, False, False]


def test_error_for_overriding_on_train_batch_end() -> None:
    class Mixin:
        def on_train_batch_end(self, *args: Any) -> None:
            """Do nothing."""

    message = r"^Late overrides on_train_batch_end, .*after checkpoints are written.*: override after_step instead\.$"
    with pytest.raises(TypeError, match=message):

        class Late(Recording):
            def on_train_batch_end(self, *args: Any) -> None:
                """Do nothing."""

    with pytest.raises(TypeError, match=r"^Mixed overrides on_train_batch_end"):

        class Mixed(Mixin, Recording):
            pass


def test_error_for_overriding_configure_model() -> None:
    with pytest.raises(TypeError, match=r"^Twice overrides configure_model.*: override configure_networks instead\.$"):

        class Twice(Recording):
            def configure_model(self) -> None:
                """Do nothing."""


def test_networks_are_built_once() -> None:
    built = []

    class Counting(Recording):
        def configure_networks(self) -> None:
            super().configure_networks()
            built.append(self.backbone)

    module = Counting(in_channels=1)
    for _ in range(2):
        module(torch.zeros(1, 1, 28, 28))
    fit(module)
    assert built == [module.backbone]


def test_cli_error_is_one_line(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_tmp / "late.py").write_text(OWN)
    monkeypatch.setattr(sys, "argv", ["lit-cv", "fit", "--model", "LateModule", "--data", "DigitsDataModule"])
    with pytest.raises(SystemExit) as error:
        console()
    line = r".*late\.py, line 4: TypeError: LateModule overrides on_train_batch_end.*: override after_step instead\."
    assert re.fullmatch(line, str(error.value))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield {"image": torch.zeros(1, 28, 28, dtype=torch.uint8), "label": torch.tensor(0)}


def test_data_without_length() -> None:
    options: dict[str, Any] = {"in_channels": 1, "image_size": 28}
    trainer = L.Trainer(**QUIET | {"max_steps": 3, "max_epochs": -1}, callbacks=[LearningRateLog()])
    trainer.fit(Recording(schedule="cosine", **options), DataLoader(Endless(), 4))
    assert trainer.global_step == 3
    trainer = L.Trainer(**QUIET | {"max_steps": 3, "max_epochs": -1})
    with pytest.raises(ValueError, match=r"warmup_epochs=1.0: must be 0.*`limit_train_batches`"):
        trainer.fit(Recording(warmup_epochs=1.0, **options), DataLoader(Endless(), 4))
