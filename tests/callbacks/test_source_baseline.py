"""The comparison of adaptation with the source alone, and which network is kept."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from datamodules import DigitsDataModule
from lit_cv import DomainAdversarialModule, SelfTrainingModule, SupervisedModule
from lit_cv.callbacks import RunCheckpoint, SourceBaseline
from lit_cv.contracts import Stage
from tests.modules.test_domain_adaptation import digits, fit


class GivenScores:
    """Part of a module whose validation scores are given in advance."""

    scores: tuple[float, ...] = ()

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        values = super().summarize(stage, values)  # type: ignore[misc]
        if stage == "val":
            score, *rest = self.scores
            self.scores = tuple(rest)
            values["val_score"] = torch.tensor(score)
        return values


class ScoredAdversarial(GivenScores, DomainAdversarialModule):
    pass


class ScoredSelfTraining(GivenScores, SelfTrainingModule):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint of a classifier of plain digits."""
    folder = tmp_path_factory.mktemp("source")
    trainer = fit(SupervisedModule(backbone="conv4"), DigitsDataModule(), folder, limit_train_batches=4)
    trainer.save_checkpoint(folder / "source.ckpt")
    return str(folder / "source.ckpt")


def run(module: Any, folder: Path, epochs: int = 2) -> RunCheckpoint:
    checkpoint = RunCheckpoint()
    fit(
        module,
        digits(),
        folder,
        epochs,
        [SourceBaseline(), checkpoint],
        limit_train_batches=2,
        enable_checkpointing=True,
    )
    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "kept", "message"),
    [
        ((0.5, 0.3, 0.4), 0.5, "does not seem to have helped (val_score 0.4000, source alone 0.5000)"),
        ((0.5, 0.6, 0.4), 0.6, "Adaptation seems to have helped: val_score 0.6000, source alone 0.5000."),
        ((0.5, 0.4, 0.5), 0.5, "has helped is unknown (val_score 0.5000, source alone 0.5000): of equal scores"),
        ((0.5, float("nan"), 0.4), 0.5, "does not seem to have helped"),
    ],
)
def test_better_network_is_kept(
    scores: tuple[float, ...], kept: float, message: str, trained: str, tmp_path: Path, caplog: Any
) -> None:
    module = ScoredAdversarial(backbone="conv4", weights=trained)
    module.scores = scores
    with caplog.at_level(logging.INFO, "lit_cv"):
        checkpoint = run(module, tmp_path)
    assert message in caplog.text
    assert checkpoint.best_model_score == pytest.approx(kept)
    state = torch.load(checkpoint.best_model_path, weights_only=True)
    source = torch.load(trained, weights_only=True)["state_dict"]
    is_source = torch.equal(state["state_dict"]["head.linear.weight"], source["head.linear.weight"])
    position = max(k for k, score in enumerate(scores) if score == kept)
    assert is_source == (position == 0)
    assert state["global_step"] == 2 * position


def test_source_epochs_are_the_baseline(tmp_path: Path, caplog: Any) -> None:
    module = ScoredSelfTraining(backbone="conv4", source_epochs=2)
    module.scores = (0.7, 0.6, 0.5)
    with caplog.at_level(logging.INFO, "lit_cv"):
        checkpoint = run(module, tmp_path, epochs=3)
    assert "does not seem to have helped (val_score 0.5000, source alone 0.7000)" in caplog.text
    assert torch.load(checkpoint.best_model_path, weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_message_without_a_baseline(tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, "lit_cv"):
        run(DomainAdversarialModule(backbone="conv4"), tmp_path, epochs=1)
        run(DomainAdversarialModule(backbone="conv4", source_only=True), tmp_path, epochs=1)
        fit(SupervisedModule(backbone="conv4"), DigitsDataModule(), tmp_path, callbacks=[SourceBaseline()])
    assert caplog.text.count("Whether adaptation has helped is unknown") == 1
    assert "seem" not in caplog.text


def test_initial_weights_are_validated_once(trained: str, tmp_path: Path) -> None:
    seen: list[int] = []

    class Look(L.Callback):
        def on_validation_start(self, trainer: L.Trainer, *args: Any) -> None:
            seen.append(trainer.global_step)

    fit(
        DomainAdversarialModule(backbone="conv4", weights=trained), digits(), tmp_path, epochs=2,
        callbacks=[SourceBaseline(), Look()], limit_train_batches=2,
    )  # fmt: skip
    assert seen == [0, 2, 4]
    fit(
        DomainAdversarialModule(backbone="conv4", weights=trained), digits(), tmp_path, limit_val_batches=0,
        callbacks=[SourceBaseline(), Look()], limit_train_batches=2,
    )  # fmt: skip
    assert seen == [0, 2, 4]


@pytest.mark.slow
def test_training_is_the_same_without_the_callback(trained: str, tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [SourceBaseline()]):
        module = DomainAdversarialModule(backbone="conv4", weights=trained, dropout=0.3)
        fit(module, digits(), tmp_path, epochs=2, callbacks=callbacks, limit_train_batches=3)
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
