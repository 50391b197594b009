"""Tables in loggers of several services."""

import json
import logging
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lit_cv.callbacks.figure_log import log_figure
from lit_cv.callbacks.table_log import Table, log_table
from tests.callbacks.classifier import board
from tests.callbacks.foreign_loggers import Calls, Plain, keep_unset, of_class
from tests.callbacks.test_figure_log import IMAGE

TABLE = Table(["class", "recall"], [["a|b\n\udcff", 0.5], ["cat", None]])
COLUMNS, ROWS = ["class", "recall"], [["a|b\\n\\xff", 0.5], ["cat", None]]


def send(*loggers: Any) -> None:
    log_table(cast(L.Trainer, SimpleNamespace(loggers=list(loggers))), "val/classes", TABLE, 5)


def test_services() -> None:
    wandb, mlflow, comet, added = Calls(), Calls("log_table"), Calls("log_table"), Calls("add_text")
    wandb_logger = of_class(WandbLogger, wandb, log_table=lambda self, *a, **k: wandb.made.append((*a, k)))
    send(wandb_logger, of_class(MLFlowLogger, mlflow, run_id="r"), of_class(CometLogger, comet), Plain(added))
    assert wandb.made == [("val/classes", {"columns": COLUMNS, "data": ROWS, "step": 5})]
    columns = {"step": [5, 5], "class": [row[0] for row in ROWS], "recall": [0.5, None]}
    assert mlflow.made == [("log_table", "r", columns, "val/classes.json", {})]
    assert comet.made == [("log_table", "val/classes_step_5.csv", {"tabular_data": ROWS, "headers": COLUMNS})]
    ((_, name, text, step, _),) = added.made
    assert (name, step) == ("val/classes", 5)
    assert text.splitlines() == ["| class | recall |", "|---|---|", r"| a\|b\n\xff | 0.5000 |", "| cat |  |"]


def test_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "", "run")
    send(logger)
    logger.finalize("success")
    (event,) = board(tmp_path / "run").Tensors("val/classes/text_summary")
    assert event.step == 5
    assert event.tensor_proto.string_val[0].decode().startswith("| class | recall |")


def test_logger_without_tables_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lit_cv")
    logger = CSVLogger(str(tmp_path))
    for _ in range(2):
        send(logger)
        log_figure(cast(L.Trainer, SimpleNamespace(loggers=[logger])), "val/classes", IMAGE, 5)
    assert [record.message for record in caplog.records] == [
        "CSVLogger takes neither tables nor text; tables are missing there.",
        "CSVLogger takes no images; figures are missing there.",
    ]


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    keep_unset(monkeypatch, "WANDB_MODE", "WANDB_SERVICE")
    logger = WandbLogger(project="lit_cv", save_dir=tmp_path, offline=True)
    send(logger)
    logger.experiment.finish()
    wandb.teardown()
    (file,) = tmp_path.rglob("val/classes*.table.json")
    content = json.loads(file.read_text())
    assert (content["columns"], content["data"]) == (COLUMNS, ROWS)


@pytest.mark.filterwarnings("ignore:For backward compatibility:Warning")  # of pandas, within MLflow
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    keep_unset(monkeypatch, "MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path}")
    send(logger)
    send(logger)
    (file,) = tmp_path.rglob("val/classes.json")
    content = json.loads(file.read_text())
    assert (content["columns"], content["data"]) == (["step", *COLUMNS], 2 * [[5, *row] for row in ROWS])


def test_comet(tmp_path: Path) -> None:
    comet = pytest.importorskip("comet_ml")
    experiment = comet.OfflineExperiment(project_name="lit_cv", offline_directory=str(tmp_path), disabled=False)
    send(of_class(CometLogger, experiment))
    experiment.end()
    (file,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(file) as content:
        texts = [content.read(name) for name in content.namelist()]
    assert any(text.splitlines()[:2] == [b"class,recall", rb"a|b\n\xff,0.5"] for text in texts)
