"""Figures in loggers of several services."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import numpy as np
import pytest
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lit_cv.callbacks import BatchFigure, TrainingCurves
from lit_cv.callbacks.figure_log import log_figure
from lit_cv.metrics_csv import MetricsCSVLogger
from tests.callbacks.classifier import Data, Oracle, run_trainer, train_batches
from tests.callbacks.foreign_loggers import Calls, Plain, keep_unset, of_class

IMAGE = np.full((2, 3, 3), 7, np.uint8)


class Imaging(Plain):
    """A logger that follows WandbLogger's method."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.target.made.append((key, images, step))


class Failing(Plain):
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        raise ConnectionError("no network")


def send(*loggers: Any) -> None:
    log_figure(cast(L.Trainer, SimpleNamespace(loggers=list(loggers))), "val/predictions", IMAGE, 5)


def test_services() -> None:
    wandb, mlflow, comet = Calls("log"), Calls("log_image"), Calls("log_image")
    wandb_logger = of_class(WandbLogger, wandb, log_image=lambda self, *a, **k: wandb.made.append((*a, k)))
    send(wandb_logger, of_class(MLFlowLogger, mlflow, run_id="r"), of_class(CometLogger, comet))
    ((key, (image,), options),) = wandb.made
    assert (key, options) == ("val/predictions", {"step": 5})
    assert image is IMAGE
    assert mlflow.made == [("log_image", "r", IMAGE, {"key": "val/predictions", "step": 5})]
    assert comet.made == [("log_image", IMAGE, {"name": "val/predictions", "step": 5})]


def test_other_loggers_by_their_methods() -> None:
    own, named, added = Calls(), Calls("log_image"), Calls("add_image")
    send(Imaging(own), Plain(named), Plain(added))
    assert own.made == [("val/predictions", [IMAGE], 5)]
    assert named.made == [("log_image", IMAGE, {"name": "val/predictions", "step": 5})]
    assert added.made == [("add_image", "val/predictions", IMAGE, 5, {"dataformats": "HWC"})]


def test_logger_without_images_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lit_cv")
    silent = (DummyLogger(), MetricsCSVLogger(str(tmp_path)))
    table = CSVLogger(str(tmp_path))
    for _ in range(3):
        send(table, *silent)
    assert [record.message for record in caplog.records] == ["CSVLogger takes no images; figures are missing there."]


def test_error_does_not_keep_figure_from_others(caplog: pytest.LogCaptureFixture) -> None:
    calls = Calls()
    send(Failing(), Imaging(calls))
    assert len(calls.made) == 1
    assert "Failing failed; the run continues: no network." in caplog.text


@pytest.mark.draws
def test_run_without_tensorboard(tmp_path: Path) -> None:
    """A run that only a foreign logger follows has figures there."""
    calls = Calls()
    trainer = run_trainer(tmp_path / "run", [BatchFigure()], logger=Imaging(calls), max_epochs=1)
    trainer.fit(Oracle(), datamodule=Data(train_batches()))
    ((name, (image,), step),) = calls.made
    assert (name, step) == ("train/batch", 1)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


@pytest.mark.draws
def test_best_metric_reaches_other_loggers(tmp_path: Path) -> None:
    other, table = Plain(), MetricsCSVLogger(str(tmp_path / "run"))
    trainer = run_trainer(tmp_path / "run", [TrainingCurves()], logger=[table, other], max_epochs=3)
    trainer.fit(Oracle(scores=[0.25, 0.75, 0.5]), datamodule=Data(train_batches(), train_batches(1)))
    assert (other.metrics["best_val_acc"], other.metrics["final_val_acc"]) == (0.75, 0.5)
    assert "best_val_acc" not in (tmp_path / "run" / "metrics.csv").read_text()


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    keep_unset(monkeypatch, "WANDB_MODE", "WANDB_SERVICE")
    logger = WandbLogger(project="lit_cv", save_dir=tmp_path, offline=True)
    send(logger)
    logger.experiment.finish()
    wandb.teardown()
    assert len(list(tmp_path.rglob("val/predictions*.png"))) == 1


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    keep_unset(monkeypatch, "MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path}")
    send(logger)
    assert len(list(tmp_path.rglob("val?predictions*.png"))) == 1
