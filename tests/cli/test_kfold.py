"""`kfold`: evaluation on held-out images, and exact resume."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import DigitsDataModule, ImageFolderDataModule
from lit_cv.callbacks import RunCheckpoint
from lit_cv.cli import main
from lit_cv.studies.kfold import CrossValidation, FoldOptions
from tests.annotations.sets import save_coco

RUN = [
    "kfold", "--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "DigitsDataModule",
    "--data.batch_size", "128", "--folds", "3", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu",
]  # fmt: skip


class Killed(BaseException):
    """Stands for a signal that kills the process."""


TIMES = ("seconds", "wall_seconds")


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_kfold_resume_is_exact(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = [*RUN, "--folds", "2"]
    main([*run, "--output", "whole"])
    uninterrupted = table(in_tmp / "whole" / "kfold.csv")
    assert [row["fold"] for row in uninterrupted] == ["1", "2"]

    saved: list[int] = []
    save = RunCheckpoint._save_last

    def killed(self: RunCheckpoint, trainer: Any) -> None:
        save(self, trainer)
        saved.append(trainer.global_step)
        if len(saved) == 3:  # within the second fold
            raise Killed

    monkeypatch.setattr(RunCheckpoint, "_save_last", killed)
    with pytest.raises(Killed):
        main([*run, "--output", "cut"])
    assert table(in_tmp / "cut" / "kfold.csv") == uninterrupted[:1]
    main([*run, "--output", "cut"])
    assert saved == [5, 10, 5, 10]  # the second fold was resumed
    assert table(in_tmp / "cut" / "kfold.csv") == uninterrupted
    assert (in_tmp / "cut" / "predictions.csv").read_text() == (in_tmp / "whole" / "predictions.csv").read_text()


@pytest.mark.slow
def test_kfold_outputs(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = [*RUN, "--folds", "2", "--trainer.max_epochs", "1"]
    main([*run, "--dry_run"])
    output = capsys.readouterr().out
    assert "fold 2 of 2" in output
    assert "2 runs, 2 to do, about" in output
    assert not (in_tmp / "lightning_logs").exists()
    main(run)
    output = capsys.readouterr().out
    assert "mean ± std" in output
    folder = in_tmp / "lightning_logs" / "kfold"
    assert {"kfold.csv", "kfold.md", "kfold.png", "predictions.csv"} <= {path.name for path in folder.iterdir()}
    data = DigitsDataModule(val_fraction=0.0)
    data.setup()
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["image"]) for row in rows) == sorted(data.train_dataset.rows.tolist())
    by_name = {data.train_dataset.sample_name(k): int(label) for k, label in enumerate(data.train_dataset.labels)}
    assert all(by_name[row["image"]] == int(row["label"]) for row in rows)
    for fold, row in enumerate(table(folder / "kfold.csv"), 1):
        in_fold = [r for r in rows if r["fold"] == str(fold)]
        accuracy = np.mean([r["label"] == r["predicted"] for r in in_fold])
        assert accuracy == pytest.approx(float(row["val_acc"]), abs=1e-6)
        assert len(in_fold) == int(row["val_images"])
    main(run)  # nothing is left to do
    assert "run 1" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds another study, which differs in options"):
        main([*run, "--model.lr", "0.5"])


@pytest.mark.slow
def test_kfold_evaluation_ignores_batch_limits(in_tmp: Path) -> None:
    limits = ["--trainer.limit_val_batches", "1", "--trainer.limit_predict_batches", "2"]
    main([*RUN, *limits, "--folds", "2", "--trainer.max_epochs", "1", "--data.batch_size", "256"])
    folder = in_tmp / "lightning_logs" / "kfold"
    rows = table(folder / "predictions.csv")
    for row in table(folder / "kfold.csv"):
        correct = [r["label"] == r["predicted"] for r in rows if r["fold"] == row["fold"]]
        assert len(correct) == int(row["val_images"]) > 512
        assert np.mean(correct) == pytest.approx(float(row["val_acc"]), abs=1e-6)


def test_kfold_error_is_one_line(in_tmp: Path) -> None:
    with pytest.raises(SystemExit, match="unknown option --fold: did you mean '--folds'"):
        main(["kfold", "--config", "supervised", "--fold", "3"])
    with pytest.raises(SystemExit, match=r"unknown option --model\.lrr: did you mean '--model.lr'"):
        main(["kfold", "--config", "supervised", "--model.lrr", "3"])
    with pytest.raises(ValueError, match="kfold and compare use one device per run, not 2"):
        main([*RUN, "--trainer.devices", "2"])
    with pytest.raises(ValueError, match="class 8 has 139 images, too few for 300 folds"):
        main([*RUN, "--folds", "300"])


def test_held_out_images_are_read_as_validation_images(tmp_path: Path) -> None:
    from torchvision.utils import save_image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(6):
            save_image(torch.rand(3, 40, 50), tmp_path / name / f"{index}.png")
    data = ImageFolderDataModule(str(tmp_path), image_size=16, train_image_size=24, test_fraction=0.0, num_workers=0)
    pool = data.training_pool()
    data.validate_on(np.array([1, 7]))
    data.setup()
    assert data.val_dataset is not None
    assert [data.val_dataset.sample_name(k) for k in range(2)] == [pool.sample_name(1), pool.sample_name(7)]
    assert len(data.train_dataset) == 10
    assert data.val_dataset[0]["image"].shape[1] == 16
    assert data.train_dataset[0]["image"].shape[1] == 24
    with pytest.raises(RuntimeError, match="before setup"):
        data.validate_on(np.array([1]))


def test_soft_votes_count_as_one_label(tmp_path: Path) -> None:
    rows = [f"{n}.png,{'cat' if n < 6 or who else 'dog'},{who}" for n in range(12) for who in range(1 + n % 3)]
    for n in range(12):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{n}.png")
    (tmp_path / "votes.csv").write_text("\n".join(["path,label,who", *rows]))
    data = ["--data", "CSVDataModule", "--data.path", str(tmp_path / "votes.csv"), "--data.annotator_column", "who"]
    options = ["--data.consensus", "soft", "--data.image_size", "8", "--data.test_fraction", "0"]
    model = ["--model", "SupervisedModule", "--model.backbone", "conv4"]
    study = CrossValidation([*data, *options, *model], FoldOptions(folds=2), tmp_path / "out", "kfold")
    assert study.labels.ndim == 1
    assert len(study.folds) == 2


def test_folds_of_images_with_boxes(tmp_path: Path) -> None:
    save_coco(tmp_path / "instances.json", [])
    for name, size in (("a.png", (60, 40)), ("b.png", (30, 30))):
        Image.new("RGB", size).save(tmp_path / name)
    data = ["--data", "AnnotatedImagesDataModule", "--data.root", str(tmp_path), "--data.test_fraction", "0"]
    study = CrossValidation([*data, "--model", "DetectionModule"], FoldOptions(folds=2), tmp_path / "out", "kfold")
    assert sorted(fold.held_out.tolist() for fold in study.folds) == [[0], [1]]
