"""Tags of the TensorBoard files of a run."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lit_cv.running.tensorboard_log import RunTensorBoardLogger, board_tag


def write(cls: type[TensorBoardLogger], folder: Path, *steps: int, **kwargs: Any) -> None:
    board = cls(folder.parent, name="", version=folder.name, default_hp_metric=False, **kwargs)
    for step in steps:
        board.log_metrics({"lr": 0.1, "epoch": 0}, step)
        board.log_metrics({"val_acc": 0.5}, step)
    board.log_hyperparams({"lr": 0.1}, {"best_val_acc": 0.5}, step=steps[-1])
    board.finalize("success")


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def steps_of(folder: Path) -> dict[str, list[int]]:
    events = read(folder)
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("val_acc", "val/acc"),
        ("test_5w1s_acc", "test/5w1s_acc"),
        ("train_loss_step", "train/loss_step"),
        ("best_val_acc", "best/val_acc"),
        ("lr", "train/lr"),
        ("lr-AdamW", "train/lr-AdamW"),
        ("sigma_color", "train/sigma_color"),
        ("epoch", "train/epoch"),
        ("val/acc", "val/acc"),
        ("val_", "val_"),
        ("val", "val"),
        ("lrs", "lrs"),
        ("mine", "mine"),
    ],
)
def test_tags(name: str, tag: str) -> None:
    assert board_tag(name) == tag
    assert board_tag(tag) == tag


def test_sections_continue_in_resumed_run(tmp_path: Path) -> None:
    write(RunTensorBoardLogger, tmp_path / "run", 1, 2)
    write(RunTensorBoardLogger, tmp_path / "run", 3, purge_step=3)
    steps = steps_of(tmp_path / "run")
    assert steps.keys() == {"train/lr", "train/epoch", "val/acc", "best/val_acc"}
    assert sorted(steps["val/acc"]) == [1, 2, 3]  # in the order of the file names


def test_plain_tags_continue_in_resumed_run(tmp_path: Path) -> None:
    write(TensorBoardLogger, tmp_path / "run", 1, 2)
    write(RunTensorBoardLogger, tmp_path / "run", 3, purge_step=3)
    steps = steps_of(tmp_path / "run")
    assert steps.keys() == {"lr", "epoch", "val_acc", "best_val_acc"}
    assert sorted(steps["val_acc"]) == [1, 2, 3]


def test_damaged_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.out.tfevents.1").write_bytes(b"damaged" * 10)
    write(RunTensorBoardLogger, tmp_path / "run", 1)
    (tmp_path / "run" / "events.out.tfevents.1").unlink()
    assert "val/acc" in steps_of(tmp_path / "run")


def test_hparams_tab_refers_to_the_tag(tmp_path: Path) -> None:
    write(RunTensorBoardLogger, tmp_path / "run", 1)
    content = read(tmp_path / "run").summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
    experiment: Any = metadata.parse_experiment_plugin_data(content)
    assert [info.name.tag for info in experiment.metric_infos] == ["best/val_acc"]
