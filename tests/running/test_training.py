"""Training, evaluation and resume from the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_cv.cli import main
from lit_cv.metrics_table import read_metrics
from tests.processes import run_program

QUICK = [
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip
TASK = '''
import torch
import torch.nn.functional as F
from torch import nn
from lit_cv import BaseModule

class InkModule(BaseModule):
    """Predicts how much ink an image holds."""

    def __init__(self, scale: float = 1.0, **kwargs) -> None:
        super().__init__(**kwargs)

    def configure_head(self, num_features):
        return nn.Linear(num_features, 1)

    def step(self, batch, stage):
        ink = batch["image"].float().mean((1, 2, 3)) / 255
        return {"loss": F.mse_loss(self(batch["image"])[:, 0], self.hparams.scale * ink), "ink": ink.mean()}
'''


@pytest.fixture
def fitted(in_tmp: Path) -> Path:
    cli = main(["fit", "--config", "supervised", *QUICK])
    assert cli is not None
    return in_tmp / "lightning_logs" / "version_0"


def test_run_folder_contents(fitted: Path) -> None:
    files = {str(path.relative_to(fitted)) for path in fitted.rglob("*") if path.is_file()}
    assert {
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "metrics.csv", "training_curves.png",
        "train_batch.png", "confusion_matrix.png", "most_wrong.png",
    } <= files  # fmt: skip
    rows = read_metrics(fitted / "metrics.csv")
    names = {name for row in rows for name in row}
    assert {"train_loss", "train_loss_step", "train_acc", "val_loss", "val_acc", "val_f1", "val_ece", "lr"} <= names
    events = EventAccumulator(str(fitted), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/loss_step", "train/lr", "val/acc"} <= set(tags["scalars"])
    assert all("/" in tag for tag in tags["scalars"])
    assert {"train/batch", "val/confusion_matrix", "val/most_wrong"} <= set(tags["images"])


@pytest.mark.slow
def test_validation_reproduces_best_score(fitted: Path) -> None:
    cli = main(["validate", "--ckpt_path", "best", *QUICK[4:]])
    assert cli is not None
    best = torch.load(fitted / "checkpoints" / "best.ckpt", weights_only=True)
    score = next(state["best_model_score"] for name, state in best["callbacks"].items() if "RunCheckpoint" in name)
    assert float(cli.trainer.callback_metrics["val_loss"]) == pytest.approx(score, rel=1e-5)


def test_precedence_command_line_checkpoint_recipe(fitted: Path) -> None:
    path = str(fitted / "checkpoints" / "best.ckpt")
    cli = main(["validate", "--config", "supervised", "--ckpt_path", path, "--model.lr", "0.5", *QUICK])
    assert cli is not None
    assert cli.model.hparams["lr"] == 0.5
    assert cli.model.hparams["num_classes"] == 10


@pytest.mark.slow
def test_moved_checkpoint_with_data(fitted: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.ckpt"
    (fitted / "checkpoints" / "best.ckpt").rename(moved)
    cli = main(["test", "--data", "DigitsDataModule", "--ckpt_path", str(moved), *QUICK])
    assert cli is not None
    assert type(cli.model).__name__ == "SupervisedModule"
    assert "test_acc" in cli.trainer.callback_metrics


@pytest.mark.slow
def test_predictions_are_written(fitted: Path) -> None:
    cli = main(["predict", "--ckpt_path", "best", *QUICK])
    assert cli is not None
    lines = (fitted / "predictions.csv").read_text().splitlines()
    assert len(lines) == 1 + len(cli.datamodule.test_dataset)
    assert not (Path.cwd() / "config.yaml").exists()


@pytest.mark.slow
def test_second_fit_gets_new_folder_and_resume_does_not(fitted: Path) -> None:
    main(["fit", "--config", "supervised", *QUICK])
    main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    runs = sorted(path.name for path in fitted.parent.iterdir())
    assert runs == ["version_0", "version_1"]
    epochs = {row["epoch"] for row in read_metrics(fitted.parent / "version_1" / "metrics.csv") if "epoch" in row}
    assert epochs == {0, 1}


def test_fast_dev_run_leaves_no_files(in_tmp: Path) -> None:
    main(["fit", "--config", "supervised", "--trainer.fast_dev_run", "true", "--trainer.enable_progress_bar", "false"])
    assert list(in_tmp.iterdir()) == []


def test_user_module_in_working_directory(in_tmp: Path) -> None:
    (in_tmp / "ink.py").write_text(TASK)
    task = ["--model", "InkModule", "--model.scale", "2", "--model.backbone", "conv4"]
    cli = main(["fit", *task, "--data", "DigitsDataModule", *QUICK])
    assert cli is not None
    assert cli.model.hparams["scale"] == 2.0
    assert {"train_ink", "val_ink", "val_loss"} <= set(cli.trainer.callback_metrics)
    again = main(["validate", "--ckpt_path", "best", *QUICK])
    assert again is not None
    assert type(again.model).__name__ == "InkModule"
    with pytest.raises(ValueError, match="holds a InkModule, but SupervisedModule was requested"):
        main(["fit", "--model", "SupervisedModule", "--data", "DigitsDataModule", "--ckpt_path", "last", *QUICK])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.lrr", "1"], "unknown option --model.lrr: did you mean '--model.lr'"),
        (["--modle.lr", "1"], "unknown option --modle.lr: did you mean '--model.lr'"),
        (["--trainer.max_epoch", "1"], "did you mean '--trainer.max_epochs'"),
        (["--min_lr", "1"], r"unknown option --min_lr: did you mean '--model\.min_lr'\?"),
        (["--data.rot", "x"], r"did you mean '--data\.root'"),
        (["--config", "wrong.yaml"], r"unknown option --trainer\.max_epoch: did you mean '--trainer\.max_epochs'"),
        (["--model", "SupervisedModul"], "unknown class 'SupervisedModul': did you mean 'SupervisedModule'"),
        (["--data", "DigitDataModule"], "unknown class 'DigitDataModule': did you mean 'DigitsDataModule'"),
        (["--trainer.callbacks+=Augmentatio"], "unknown class 'Augmentatio': did you mean 'Augmentation'"),
        (["--model.lr", "abc"], "--model.lr abc: expected float"),
        (["--trainer.precision", "bf16-mxed"], "did you mean 'bf16-mixed'"),
    ],
)
def test_invalid_option_error_is_one_line(in_tmp: Path, options: list[str], message: str) -> None:
    (in_tmp / "wrong.yaml").write_text("trainer: {max_epoch: 1}\n")
    with pytest.raises(SystemExit, match=message) as error:
        main(["fit", "--config", "supervised", *options])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.backbone", "resnet19"], "backbone='resnet19': there is no such backbone: did you mean 'resnet9'"),
        (["--model.optimizer", "adamm"], "optimizer='adamm': there is no such optimizer: did you mean 'adam'"),
        (["--checkpoint.monitor", "val_accc"], "no metric 'val_accc' was logged: did you mean 'val_acc'"),
        (["--early_stopping.patience", "2", "--early_stopping.monitor", "val_los"], "did you mean 'val_loss'"),
    ],
)
def test_error_names_value(in_tmp: Path, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(["fit", "--config", "supervised", *QUICK, *options])


@pytest.mark.slow
def test_program_output_has_no_advertising(in_tmp: Path) -> None:
    command = [sys.executable, "-m", "lit_cv", "fit", "--config", "supervised", *QUICK]
    path = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    good = subprocess.run(command, capture_output=True, text=True, cwd=in_tmp, env=path)
    assert good.returncode == 0, good.stderr
    for word in ("Tip", "litlogger", "litmodels", "Warning", "num_workers", "TPU"):
        assert word not in good.stdout + good.stderr
    assert "Best checkpoint: lightning_logs/version_0/checkpoints/best.ckpt (val_loss" in good.stderr
    assert "lit-cv validate --ckpt_path" in good.stderr
    (wrong,) = run_program([*command[3:], "--model.backbone", "x"], in_tmp)
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    assert wrong.stderr.splitlines()[-1].startswith("lit-cv: error: backbone='x': there is no such backbone")
