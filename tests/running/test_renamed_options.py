"""Renamed options are accepted on the command line, in configuration files, and in the files of an old run."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torchvision.utils import save_image

from lit_cv.cli import main
from lit_cv.running.arguments import prepare

RECIPE = ["fit", "--config", "imagefolder_supervised"]
RENAMED = "train_size is now called .*train_image_size"
SHORT = [
    "--data.root", "photos", "--data.image_size", "16", "--data.batch_size", "4", "--data.num_workers", "0",
    "--model.backbone", "conv4", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2",
]  # fmt: skip


class Killed(BaseException):
    """Ends a run as abruptly as a signal."""


def kill_at_step_5(callback: L.Callback, trainer: L.Trainer, *args: Any) -> None:
    if trainer.global_step == 5:
        raise Killed


def data_options(args: list[str]) -> dict[str, object]:
    prepared, _ = prepare(args)
    return yaml.safe_load(Path(prepared[2]).read_text())["data"]["init_args"]


def test_typed_old_name_wins_over_recipe() -> None:
    with pytest.warns(FutureWarning, match=RENAMED):
        prepared, _ = prepare([*RECIPE, "--data.train_size", "300", "--data.init_args.train_size=301"])
    assert prepared[3:] == ["--data.train_image_size", "300", "--data.train_image_size=301"]


@pytest.mark.parametrize("named", [True, False])
def test_old_name_in_file_wins_over_recipe(in_tmp: Path, named: bool) -> None:
    section = {"class_path": "ImageFolderDataModule"} if named else {}
    (in_tmp / "mine.yaml").write_text(yaml.safe_dump({"data": {**section, "init_args": {"train_size": 300}}}))
    with pytest.warns(FutureWarning, match=RENAMED):
        options = data_options([*RECIPE, "--config", "mine.yaml"])
    assert options["train_image_size"] == 300
    assert "train_size" not in options


def test_old_name_within_another_datamodule(in_tmp: Path) -> None:
    source = {"class_path": "datamodules.ImageFolderDataModule", "init_args": {"train_size": 300}}
    section = {"class_path": "DomainAdaptationDataModule", "init_args": {"source": source}}
    (in_tmp / "mine.yaml").write_text(yaml.safe_dump({"data": section}))
    with pytest.warns(FutureWarning, match=RENAMED):
        options = data_options(["fit", "--config", "mine.yaml"])
    assert options["source"] == {
        "class_path": "datamodules.ImageFolderDataModule",
        "init_args": {"train_image_size": 300},
    }


def test_option_of_another_class_is_kept(in_tmp: Path) -> None:
    (in_tmp / "mine.yaml").write_text("data: {class_path: mine.Data, init_args: {train_size: 300}}")
    assert data_options(["fit", "--config", "mine.yaml"])["train_size"] == 300


@pytest.mark.slow
def test_old_run_resumes_exactly(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        (in_tmp / "photos" / name).mkdir(parents=True)
        for index in range(12):
            save_image(torch.rand(3, 20, 20), in_tmp / "photos" / name / f"{index}.png")
    command = [*RECIPE, *SHORT, "--trainer.precision", "32-true", "--checkpoint.every_n_steps", "2"]
    complete = main([*command, "--data.train_image_size", "18"])
    with monkeypatch.context() as patch:
        patch.setattr(L.Callback, "on_train_batch_start", kill_at_step_5)
        with pytest.raises(Killed):
            main([*command, "--data.train_image_size", "18"])
    config = in_tmp / "lightning_logs" / "version_1" / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if line.strip() != "train_size: null"]
    assert "    train_image_size: 18" in lines
    config.write_text("\n".join(lines).replace("train_image_size: 18", "train_size: 18"))
    with pytest.warns(FutureWarning, match=RENAMED):
        resumed = main(["fit", "--ckpt_path", "last"])
    assert complete is not None
    assert resumed is not None
    assert resumed.datamodule.hparams["train_image_size"] == 18
    assert resumed.trainer.global_step == complete.trainer.global_step
    for expected, weight in zip(complete.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(expected, weight)
