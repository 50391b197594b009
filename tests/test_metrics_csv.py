import csv
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from lit_cv.metrics_csv import MetricsCSVLogger
from lit_cv.metrics_table import read_metrics


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def test_one_row_per_step_and_new_columns(tmp_path: Path) -> None:
    logger = MetricsCSVLogger(str(tmp_path))
    logger.log_metrics({"train_loss_step": 2.5, "epoch": 0}, step=0)
    logger.log_metrics({"lr": 0.1}, step=1)
    logger.log_metrics({"train_loss_step": 2.0, "epoch": 0}, step=1)
    logger.save()
    assert lines(tmp_path) == ["epoch,step,train_loss_step,lr", "0,0,2.5,", "0,1,2.0,0.1"]
    logger.log_metrics({"val_acc": 0.5, "epoch": 0}, step=2)
    logger.finalize("success")
    assert lines(tmp_path) == ["epoch,step,train_loss_step,lr,val_acc", "0,0,2.5,,", "0,1,2.0,0.1,", "0,2,,,0.5"]


def test_resume_drops_rows_after_checkpoint(tmp_path: Path) -> None:
    logger = MetricsCSVLogger(str(tmp_path))
    for step in range(6):
        logger.log_metrics({"train_loss_step": float(step), "epoch": step // 3}, step=step)
    logger.finalize("success")
    resumed = MetricsCSVLogger(str(tmp_path), resume_step=4)
    resumed.log_metrics({"train_loss_step": 40.0, "epoch": 1}, step=4)
    resumed.finalize("success")
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[3]["train_loss_step"] == 3.0
    assert rows[4]["train_loss_step"] == 40.0
    assert isinstance(rows[0]["step"], int)


def test_truncated_line_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,lr\n0,0,0.1\n0,")
    assert read_metrics(tmp_path / "metrics.csv") == [{"epoch": 0, "step": 0, "lr": 0.1}]


def test_repeated_saves_append(tmp_path: Path) -> None:
    logger = MetricsCSVLogger(str(tmp_path))
    for step in range(50):
        logger.log_metrics({"lr": step / 100, "epoch": 0}, step=step)
        logger.save()
    logger.finalize("success")
    assert [row["lr"] for row in read_metrics(tmp_path / "metrics.csv")] == [step / 100 for step in range(50)]


def test_written_row_may_grow(tmp_path: Path) -> None:
    logger = MetricsCSVLogger(str(tmp_path))
    for step in range(4):
        logger.log_metrics({"loss": step / 2, "lr": 0.1, "epoch": 0}, step)
        logger.save()
        before = lines(tmp_path)
        logger.save()
        assert lines(tmp_path) == before
        logger.log_metrics({"lr": 0.01 * step}, step)  # of the same columns
        logger.save()
    assert lines(tmp_path)[1:] == ["0,0,0.0,0.0", "0,1,0.5,0.01", "0,2,1.0,0.02", "0,3,1.5,0.03"]
    logger.log_metrics({"val_loss": 2.0}, 3)
    logger.log_metrics({"loss": 1.0, "lr": 0.1, "epoch": 1}, 4)
    logger.save()
    assert lines(tmp_path)[-2:] == ["0,3,1.5,0.03,2.0", "1,4,1.0,0.1,"]


def test_full_disk_keeps_complete_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = MetricsCSVLogger(str(tmp_path))
    for step in range(3):
        logger.log_metrics({"loss": 0.5}, step)
        logger.save()
    before = (tmp_path / "metrics.csv").read_bytes()

    def write_half(writer: Any, row: Any) -> None:
        writer.writer.writerow([0, 2, "0."])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(csv.DictWriter, "writerow", write_half)
    logger.log_metrics({"loss": 0.5}, 3)
    with pytest.raises(OSError, match=r"the table .*metrics\.csv could not be written \(No space left"):
        logger.save()
    assert (tmp_path / "metrics.csv").read_bytes() == before
    logger.log_metrics({"other": 1.0}, 4)  # a new column: the file is rewritten
    with pytest.raises(OSError, match="could not be written"):
        logger.save()
    assert (tmp_path / "metrics.csv").read_bytes() == before
    logger.finalize("failed")  # does not hide the error that ended the run
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.csv"]
    monkeypatch.undo()
    logger.save()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == [0, 1, 2, 3, 4]
