"""Reverse validation during training: its values, and that it chooses checkpoints."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from datamodules import DigitsDataModule
from lit_cv import DomainAdversarialModule, SourceFreeModule, SupervisedModule
from lit_cv.callbacks import ReverseValidation, RunCheckpoint, SourceBaseline
from lit_cv.cli import main
from lit_cv.metrics import reverse_validation
from tests.modules.test_domain_adaptation import digits, fit


def test_logged_scores_match_direct_computation(tmp_path: Path) -> None:
    data, module = digits(), DomainAdversarialModule(backbone="conv4")
    callback = ReverseValidation(steps=5, max_images=10_000)
    trainer = fit(module, data, tmp_path, limit_train_batches=3, callbacks=[callback])
    module.eval()
    target = data.unlabeled_dataset.__getitems__(range(len(data.unlabeled_dataset)))["image"]
    source = data.source_val_dataset.__getitems__(range(len(data.source_val_dataset)))
    with torch.no_grad():
        predicted = torch.cat([module(part).argmax(1) for part in target.split(32)])
    expected = reverse_validation(target, predicted, source["image"], source["label"], 10, steps=5)
    logged = trainer.callback_metrics
    assert float(logged["val_reverse_acc"]) == pytest.approx(float(expected.source_accuracy), abs=1e-6)
    assert float(logged["val_reverse_agreement"]) == pytest.approx(float(expected.agreement), abs=1e-6)
    mean = (float(expected.source_accuracy) + float(expected.agreement)) / 2
    assert float(logged["val_reverse_score"]) == pytest.approx(round(mean, 2), abs=1e-6)


def test_score_chooses_the_checkpoint(tmp_path: Path, caplog: Any) -> None:
    checkpoint = RunCheckpoint()
    module = DomainAdversarialModule(backbone="conv4")
    callbacks = [SourceBaseline(), ReverseValidation(2, 60), checkpoint]
    fit(module, digits(), tmp_path, callbacks=callbacks, limit_train_batches=2, enable_checkpointing=True)
    assert (checkpoint.monitor, checkpoint.mode) == ("val_reverse_score", "max")
    assert checkpoint.best_model_score is not None
    chosen = RunCheckpoint(monitor="val_score")
    callbacks = [ReverseValidation(2, 60), chosen]
    fit(DomainAdversarialModule(backbone="conv4"), digits(), tmp_path, callbacks=callbacks, limit_train_batches=2,
        enable_checkpointing=True)  # fmt: skip
    assert chosen.monitor == "val_score"


@pytest.mark.slow
def test_training_is_the_same_without_it(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [ReverseValidation(2, 60)]):
        module = DomainAdversarialModule(backbone="conv4", dropout=0.3)
        fit(module, digits(), tmp_path, epochs=2, callbacks=callbacks, limit_train_batches=3)
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_other_data_are_left_alone(tmp_path: Path) -> None:
    module = SupervisedModule(backbone="conv4")
    trainer = fit(module, DigitsDataModule(), tmp_path, limit_train_batches=2, callbacks=[ReverseValidation()])
    assert not [name for name in trainer.callback_metrics if "reverse" in name]
    assert module.monitor == "val_acc"


def test_source_free_module_on_two_domains(tmp_path: Path) -> None:
    trained = SupervisedModule(backbone="conv4")
    fit(trained, DigitsDataModule(), tmp_path, limit_train_batches=2).save_checkpoint(tmp_path / "one.ckpt")
    module = SourceFreeModule(backbone="conv4", weights=str(tmp_path / "one.ckpt"))
    trainer = fit(module, digits(), tmp_path, limit_train_batches=2, callbacks=[ReverseValidation(2, 60)])
    assert 0 <= float(trainer.callback_metrics["val_reverse_score"]) <= 1


@pytest.mark.slow
def test_command_line_uses_it(in_tmp: Path) -> None:
    cli = main(
        [
            "fit", "--config", "adversarial", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2",
            "--data.source.num_images", "100", "--data.target.num_images", "100", "--trainer.accelerator", "cpu",
        ]
    )  # fmt: skip
    assert cli is not None
    assert isinstance(cli.trainer, L.Trainer)
    assert cli.trainer.checkpoint_callback.monitor == "val_reverse_score"  # type: ignore[union-attr]


def test_errors() -> None:
    with pytest.raises(ValueError, match="steps=0: must be at least 2"):
        ReverseValidation(steps=0)
