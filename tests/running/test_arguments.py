"""Recipes, configuration files, the checkpoint and options are merged in their order of precedence."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_cv.running.arguments import prepare
from lit_cv.running.precision import has_bfloat16
from lit_cv.running.runs import find_checkpoint


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def merged(args: list[str]) -> dict[str, Any]:
    prepared, _ = prepare(args)
    assert prepared[1] == "--config"
    content: dict[str, Any] = yaml.safe_load(Path(prepared[2]).read_text())
    return content


def save_checkpoint(path: Path, step: int = 5, **hyperparameters: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": {"head.weight": torch.zeros(1000)},
        "hyper_parameters": {"backbone": "conv4", "lr": 0.1, **hyperparameters},
        "global_step": step,
        "lit_cv": {"class_path": "lit_cv.modules.supervised.SupervisedModule"},
    }
    torch.save(content, path)
    return path


def test_recipe_by_name() -> None:
    config = merged(["fit", "--config", "supervised"])
    assert config["model"]["class_path"] == "SupervisedModule"
    assert config["data"]["class_path"] == "DigitsDataModule"


@pytest.mark.parametrize("fast", [True, False])
def test_recipe_precision_follows_device(
    fast: bool, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("lit_cv.running.arguments.has_bfloat16", lambda accelerator: fast and accelerator == "cpu")
    recipe = ["fit", "--config", "simclr", "--trainer.accelerator", "cpu"]
    assert merged(recipe)["trainer"]["precision"] == ("bf16-mixed" if fast else "32-true")
    assert ("emulates bfloat16" in caplog.text) is not fast
    caplog.clear()
    prepared, _ = prepare([*recipe, "--trainer.precision", "bf16-mixed"])
    assert prepared[-1] == "bf16-mixed"
    Path("mine.yaml").write_text("trainer: {precision: bf16-mixed}\n")
    assert merged([*recipe, "--config", "mine.yaml"])["trainer"]["precision"] == "bf16-mixed"
    Path("own.yaml").write_text("trainer: {precision: 32-true}\n")
    merged([*recipe, "--config", "own.yaml"])
    assert not caplog.text


@pytest.mark.parametrize("supported", [True, False])
def test_has_bfloat16(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: supported)
    assert has_bfloat16("cpu") is supported
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: supported)
    assert has_bfloat16() is supported


def test_config_precedes_options() -> None:
    prepared, _ = prepare(["fit", "--model.lr", "0.5", "--config=supervised"])
    assert prepared[0] == "fit"
    assert prepared.index("--config") < prepared.index("--model.lr")


def test_later_config_overrides_earlier(in_tmp: Path) -> None:
    Path("mine.yaml").write_text("model: {init_args: {lr: 1e-3}}\ntrainer: {max_epochs: 77}\n")
    config = merged(["fit", "--config", "supervised", "--config", "mine.yaml"])
    assert config["trainer"]["max_epochs"] == 77
    assert config["model"]["init_args"]["lr"] == 1e-3
    assert config["model"]["init_args"]["backbone"]


@pytest.mark.parametrize("option", [["--model", "SimCLRModule"], ["--model.class_path=lit_cv.SimCLRModule"]])
def test_other_class_drops_recipe_arguments(option: list[str]) -> None:
    config = merged(["fit", "--config", "supervised", *option])
    assert set(config["model"]) == {"class_path"}


def test_same_class_keeps_recipe_arguments() -> None:
    config = merged(["fit", "--config", "supervised", "--model", "SupervisedModule"])
    assert config["model"]["init_args"]["lr"]


def test_other_class_in_second_config(in_tmp: Path) -> None:
    Path("mine.yaml").write_text("data: {class_path: CSVDataModule, init_args: {path: a.csv}}\n")
    config = merged(["fit", "--config", "supervised", "--config", "mine.yaml"])
    assert config["data"] == {"class_path": "CSVDataModule", "init_args": {"path": "a.csv"}}


def test_precedence_of_checkpoint_hyperparameters(in_tmp: Path) -> None:
    path = save_checkpoint(in_tmp / "some.ckpt", lr=0.25)
    prepared, _ = prepare(["validate", "--config", "supervised", "--ckpt_path", str(path), "--model.lr", "0.5"])
    config = yaml.safe_load(Path(prepared[2]).read_text())
    assert config["model"]["init_args"]["lr"] == 0.25
    assert prepared[3:5] == ["--model.lr", "0.5"]


def test_checkpoint_loads_run_config(in_tmp: Path) -> None:
    path = save_checkpoint(in_tmp / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt")
    (path.parent.parent / "config.yaml").write_text("data: {class_path: A}\nckpt_path: old.ckpt\n")
    config = merged(["validate", "--ckpt_path", str(path)])
    assert config["data"] == {"class_path": "A"}
    assert "ckpt_path" not in config


def test_precedence_of_run_config(in_tmp: Path) -> None:
    path = save_checkpoint(in_tmp / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", lr=0.25, weights=None)
    run_config = "data: {class_path: DigitsDataModule, init_args: {batch_size: 8, val_fraction: 0.2}}\n"
    (path.parent.parent / "config.yaml").write_text(run_config + "trainer: {limit_train_batches: 4}\n")
    for verb in ("fit", "validate"):
        config = merged([verb, "--config", "supervised", "--ckpt_path", "last"])
        assert config["data"]["init_args"] == {"batch_size": 8, "val_fraction": 0.2}
        assert config["trainer"] == {"limit_train_batches": 4}
        assert config["model"]["init_args"]["lr"] == 0.25
    text = "model: {class_path: SupervisedModule, init_args: {lr: 0.5, weights: gone.ckpt}}\n"
    Path("mine.yaml").write_text(text + "data: {init_args: {batch_size: 9}}\n")
    config = merged(["fit", "--config", "supervised", "--config", "mine.yaml", "--ckpt_path", "last"])
    assert config["data"]["init_args"] == {"batch_size": 9, "val_fraction": 0.2}
    assert (config["model"]["init_args"]["lr"], config["model"]["init_args"]["weights"]) == (0.5, None)
    other = merged(["test", "--config", "fashion_mnist_supervised", "--ckpt_path", "last"])
    assert other["data"]["class_path"] == "FashionMNISTDataModule"
    with pytest.raises(
        ValueError,
        match=r"holds a SupervisedModule, but SimCLRModule was requested\. Leave `config` of the command out",
    ):
        prepare(["fit", "--config", "simclr", "--ckpt_path", "last"])


def test_checkpoint_of_other_class_is_rejected(in_tmp: Path) -> None:
    path = save_checkpoint(in_tmp / "some.ckpt")
    with pytest.raises(ValueError, match="holds a SupervisedModule, but SimCLRModule was requested"):
        prepare(["fit", "--model", "SimCLRModule", "--ckpt_path", str(path)])


def test_last_finds_newest_run(in_tmp: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run in .* has a checkpoint to resume from"):
        find_checkpoint("last")
    save_checkpoint(in_tmp / "lightning_logs" / "version_1" / "checkpoints" / "last.ckpt", step=1)
    save_checkpoint(in_tmp / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", step=2)
    assert find_checkpoint("last").step == 2
    assert find_checkpoint("last", str(in_tmp)).step == 2


def test_auto_resumes_newest_run(in_tmp: Path) -> None:
    command = ["fit", "--config", "supervised", "--ckpt_path", "auto"]
    prepared, checkpoint = prepare(command)
    assert checkpoint is None
    assert "--ckpt_path" not in prepared
    path = save_checkpoint(in_tmp / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt")
    prepared, checkpoint = prepare(command)
    assert checkpoint is not None
    assert prepared[-2:] == ["--ckpt_path", str(checkpoint.path)]
    assert checkpoint.path.resolve() == path
    with pytest.raises(ValueError, match="works only with `fit`"):
        prepare(["test", "--ckpt_path", "auto"])


def test_damaged_last_falls_back_to_previous(in_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = in_tmp / "lightning_logs" / "version_0" / "checkpoints"
    save_checkpoint(folder / "previous.ckpt", step=3)
    last = save_checkpoint(folder / "last.ckpt", step=4)
    last.write_bytes(last.read_bytes()[:-700])
    assert find_checkpoint("last").step == 3
    assert "Falling back to the previous checkpoint" in caplog.text
    (folder / "previous.ckpt").unlink()
    with pytest.raises(ValueError, match=r"last\.ckpt is not a valid checkpoint"):
        find_checkpoint("last")


def test_unsafe_pickle_is_rejected(in_tmp: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"path": Path("x")}}, "bad.ckpt")
    with pytest.raises(ValueError, match="not a valid checkpoint"):
        find_checkpoint("bad.ckpt")


@pytest.mark.parametrize(
    ("config", "message"),
    [("supervized", "did you mean 'supervised'"), ("missing.yaml", "does not exist"), ("bad.yaml", "not valid")],
)
def test_invalid_configurations(in_tmp: Path, config: str, message: str) -> None:
    Path("bad.yaml").write_text("model: [1, 2\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(["fit", "--config", config])


def test_user_class_by_short_name(in_tmp: Path) -> None:
    Path("rotation.py").write_text("class RotationModule:\n    pass\n")
    assert prepare(["fit", "--model", "RotationModule"])[0][-2:] == ["--model", "rotation.RotationModule"]
    config = merged(["fit", "--config", "supervised", "--model", "RotationModule"])
    assert config["model"] == {"class_path": "rotation.RotationModule"}
