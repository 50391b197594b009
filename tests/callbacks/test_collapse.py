"""Detection of collapsed features in short runs on digits."""

import logging
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules import DigitsDataModule
from lit_cv import BaseModule, CollapseWarning, ContrastiveAugmentation, SimCLRModule
from lit_cv.callbacks.collapse import _measure, _Measures
from lit_cv.cli import main

MOVES = [{"name": "random_resized_crop", "scale": [0.5, 1.0]}, {"name": "affine", "degrees": 15, "translate": 0.1}]


class ViewTwins(BaseModule):
    """Makes the projections of two views equal, without anything against a collapse."""

    uses_unlabeled: ClassVar[bool] = True
    expects_views: ClassVar[bool] = True
    evaluates_embedding: ClassVar[bool] = True

    def configure_head(self, num_features: int) -> nn.Module:
        return nn.Sequential(nn.Linear(num_features, 64), nn.ReLU(), nn.Linear(64, 32))

    def step(self, batch: Any, stage: str) -> dict[str, Tensor]:
        first, second = self(batch["views"].flatten(0, 1)).float().chunk(2)
        return {"loss": 1 - F.cosine_similarity(first, second).mean()}


def run(module: BaseModule, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    defaults: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 8, "limit_val_batches": 0, "accelerator": "cpu"}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    views = ContrastiveAugmentation(operations=MOVES)
    trainer = L.Trainer(**defaults | quiet | options, callbacks=[views, *callbacks])
    L.seed_everything(0, verbose=False)
    trainer.fit(module, datamodule=DigitsDataModule(batch_size=64))
    return trainer


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_collapse_is_told_once_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    callback = CollapseWarning()
    trainer = run(ViewTwins(backbone="conv4", lr=0.01), callback, max_epochs=3)
    told = [line for line in warnings(caplog) if "Collapse" in line]
    assert len(told) == 1
    assert "\n" not in told[0]
    assert told[0].startswith(("Collapse in epoch 1: the projections of", "Collapse in epoch 2: the projections of"))
    assert "before training). To prevent it, lower `lr`, raise `batch_size` of the DataModule, or check" in told[0]
    assert trainer.current_epoch == 3
    assert callback.warned


def test_stop_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    trainer = run(ViewTwins(backbone="conv4", lr=0.01), CollapseWarning(stop=True), max_epochs=9)
    assert trainer.current_epoch <= 2
    assert [line for line in warnings(caplog) if line.endswith("Stopping the training.")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"projector_norm": False}],
    ids=["norm", "no norm"],
)
@pytest.mark.parametrize("batches", [1, 8])
def test_no_warning_without_collapse(caplog: pytest.LogCaptureFixture, options: Any, batches: int) -> None:
    callback = CollapseWarning(stop=True)
    trainer = run(SimCLRModule(backbone="conv4", lr=1e-3, **options), callback, limit_train_batches=batches)
    assert trainer.current_epoch == 2
    assert not callback.warned
    assert set(callback._start) == {"features", "projections"}
    assert not [line for line in warnings(caplog) if "Collapse" in line]


def test_too_high_learning_rate_is_a_collapse() -> None:
    callback = CollapseWarning()
    run(SimCLRModule(backbone="conv4", lr=3.0), callback)
    assert callback.warned


def test_training_is_unchanged() -> None:
    states = []
    for callbacks in ([], [CollapseWarning()]):
        module = ViewTwins(backbone="conv4", spatial_dropout=0.1)
        run(module, *callbacks, limit_train_batches=3)
        states.append(module.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_only_first_and_last_batches_are_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    embed = ViewTwins.embed

    def spy(self: Any, images: Tensor) -> Tensor:
        assert not self.backbone.training
        steps.append(self.trainer.global_step)
        return embed(self, images)

    monkeypatch.setattr(ViewTwins, "embed", spy)
    run(ViewTwins(backbone="conv4"), CollapseWarning(), max_epochs=1)
    assert steps == [0, 7, 8]


def test_state_resumes_before_the_end_of_the_epoch() -> None:
    restored = CollapseWarning()

    class Saves(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.is_last_batch:
                restored.load_state_dict(callback.state_dict())

    callback = CollapseWarning()
    trainer = run(ViewTwins(backbone="conv4", lr=0.01), callback, Saves())
    assert callback.warned
    restored.warned = False
    restored.on_train_epoch_end(trainer, trainer.lightning_module)
    assert restored.warned
    assert restored._start == callback._start


def test_ranks_decide_by_the_first(caplog: pytest.LogCaptureFixture) -> None:
    module = ViewTwins(backbone="conv4")
    for problem in ("of rank 0", None):
        strategy = SimpleNamespace(broadcast=lambda value, problem=problem: problem)
        trainer: Any = SimpleNamespace(strategy=strategy, is_global_zero=False, should_stop=False, current_epoch=0)
        CollapseWarning(stop=True).on_train_epoch_end(trainer, module)
        assert trainer.should_stop == (problem is not None)
    assert not warnings(caplog)  # rank 0 warns


@pytest.mark.parametrize(
    ("name", "start", "now", "text"),
    [
        ("features", (0.05, 40.0), (0.05, 7.0), "few dimensions, their effective rank is 7.0 (40.0 before training)"),
        ("features", (0.05, 20.0), (0.05, 7.0), None),
        ("features", (0.05, 40.0), (0.05, 9.0), None),
        ("projections", (0.05, 40.0), (2e-4, 40.0), "similarity is 2.0e-04 (5.0e-02 before training)"),
        ("projections", (0.005, 40.0), (2e-4, 40.0), None),
        ("projections", (0.05, 40.0), (4e-4, 40.0), None),
        ("features", (0.05, 40.0), (2e-4, 40.0), None),
        ("features", (0.05, 40.0), (1e-6, 40.0), "the features of images are nearly equal"),
        ("features", (0.05, 40.0), (float("nan"), float("nan")), None),
    ],
)
def test_thresholds(name: str, start: Any, now: Any, text: str | None) -> None:
    callback = CollapseWarning()
    callback._start = {name: _Measures(*start)}
    problem = callback._problem(name, _Measures(*now))
    assert problem is None if text is None else text in str(problem)


def test_unknown_measures_before_training_need_a_clear_collapse() -> None:
    for now, problem in (((0.05, 1.9), "effective rank is 1.9"), ((1e-6, 20.0), "similarity is 1.0e-06")):
        assert str(CollapseWarning()._problem("features", _Measures(*now))).endswith(problem)
    for now in ((0.05, 2.1), (4e-6, 20.0)):
        assert CollapseWarning()._problem("features", _Measures(*now)) is None


def test_batches_are_centered_on_their_own() -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 20, 1) * torch.ones(32)  # in one dimension
    batches = list(rows + 100 * torch.randn(3, 1, 32))
    measures = _measure({"features": batches})["features"]
    assert measures.rank == pytest.approx(1, abs=1e-2)
    assert measures.spread < 1e-2
    assert _measure({"features": [rows[0, :15]], "projections": [rows[0, :1]] * 20}) == {}


def test_command_line_adds_callback(in_tmp: Any) -> None:
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.fast_dev_run", "true"]
    kinds = {}
    for model in ("SimCLRModule", "SupervisedModule"):
        cli: Any = main(["fit", "--model", model, "--model.backbone", "conv4", "--data", "DigitsDataModule", *quiet])
        kinds[model] = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert kinds["SimCLRModule"].index("ContrastiveAugmentation") < kinds["SimCLRModule"].index("CollapseWarning")
    assert "CollapseWarning" not in kinds["SupervisedModule"]
