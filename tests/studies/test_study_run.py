"""Lean runs resume exactly within an epoch, and use no labels outside their budget."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.callbacks.non_finite import NonFiniteError
from lit_cv.studies import study_run
from lit_cv.studies.run_callbacks import LastCheckpoint
from lit_cv.studies.study_run import StudyRun, quiet_runs

OPTIONS = [
    "--model", "SupervisedModule", "--model.backbone", "conv4", "--model.dropout", "0.2", "--data", "DigitsDataModule",
    "--data.batch_size", "64", "--data.labels_per_class", "20", "--data.val_fraction", "0", "--ema.decay", "0.9",
    "--trainer.max_steps", "8", "--trainer.max_epochs", "100", "--trainer.accelerator", "cpu",
    "--trainer.limit_val_batches", "0",
]  # fmt: skip


class Killed(BaseException):
    """Stands for a signal that kills the process."""


@pytest.mark.slow
def test_lean_run_resume_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "LastCheckpoint", lambda: LastCheckpoint(every_seconds=0.0))

    def kill(step: int) -> None:
        if step == 5:  # within the second epoch of 3 steps
            raise Killed

    steps: list[int] = []
    with quiet_runs():
        whole = StudyRun(OPTIONS, tmp_path / "whole", lean=True)
        with pytest.raises(Killed):
            StudyRun(OPTIONS, tmp_path / "cut", lean=True, report=kill)
        before = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)
        assert before["global_step"] == 4
        cut = StudyRun(OPTIONS, tmp_path / "cut", lean=True, report=steps.append)
    assert steps == [5, 6, 7, 8]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, cut.model.state_dict()[name]), name
    assert cut.clock.seconds > before["callbacks"]["TrainingClock"]["seconds"] > 0
    table = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "cut")]
    assert table[0] == table[1]
    assert {path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_lean_run_has_no_evaluation_callbacks(tmp_path: Path) -> None:
    options = [*OPTIONS, "--config", "simclr", "--trainer.callbacks+=OnlineProbe"]
    options = [option for option in options if option not in ("--model", "SupervisedModule", "--model.dropout", "0.2")]
    with quiet_runs():
        run = StudyRun(options, tmp_path, lean=True, only_build=True)
    callbacks: Any = run.trainer.callbacks  # type: ignore[attr-defined]
    names = {type(callback).__name__ for callback in callbacks}
    assert {"ContrastiveAugmentation", "LastCheckpoint", "TrainingClock", "EMA"} <= names
    assert not {"OnlineProbe", "EmbeddingEvaluation", "RunCheckpoint", "BatchFigure"} & names


def test_lean_run_stops_at_non_finite_loss(tmp_path: Path) -> None:
    with quiet_runs(), pytest.raises(NonFiniteError, match="step"):
        StudyRun([*OPTIONS, "--model.lr", "1e30"], tmp_path, lean=True)
