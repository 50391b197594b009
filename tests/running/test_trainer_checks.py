"""Invalid Trainer options and missing packages end in a one-line error."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import device_stats_monitor

from lit_cv.cli import console, main
from lit_cv.cli.errors import is_user_error
from lit_cv.cli.option_names import OptionNames
from lit_cv.errors import spelled_by
from lit_cv.running.trainer_checks import check_trainer_options

FIT = [
    "fit", "--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "DigitsDataModule",
    "--data.labels_per_class", "10", "--data.batch_size", "25", "--trainer.max_epochs", "1",
    "--trainer.accelerator", "cpu",
]  # fmt: skip
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
STOPPING = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_los"]
without_wandb = pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accumulate_grad_batches", 0),
        ("check_val_every_n_epoch", 0),
        ("gradient_clip_val", -1.0),
        ("gradient_clip_val", float("nan")),
        ("limit_train_batches", 0.0),
        ("log_every_n_steps", -1),
        ("max_steps", 0),
        ("max_time", {"mins": 3}),
        ("num_sanity_val_steps", -2),
        ("val_check_interval", 0),
    ],
)
def test_invalid_trainer_option(name: str, value: object) -> None:
    pattern = rf"^{name}=.+: .+ \(--trainer\.{name}\)\.$"
    with pytest.raises(ValueError, match=pattern), spelled_by(OptionNames(["fit"])):
        check_trainer_options({name: value, "max_epochs": None}, fits=True)


def test_valid_trainer_options() -> None:
    check_trainer_options({"limit_train_batches": 0}, fits=False)
    check_trainer_options({"max_time": "00:01:00:00", "val_check_interval": "00:00:10:00"}, fits=True)
    check_trainer_options({"max_time": {"hours": 1}, "gradient_clip_val": 0, "num_sanity_val_steps": -1}, fits=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.limit_train_batches", "0"], "limit_train_batches=0: .* (--trainer.limit_train_batches)."),
        (
            ["--trainer.val_check_interval", "99"],
            ".*`val_check_interval` (99) must be less.* (--trainer.val_check_inter.*",
        ),
        (["--trainer.barebones", "true", "--trainer.enable_checkpointing", "true"], ".*barebones=True, enable_check.*"),
        (STOPPING, ".*metric `val_los` which is not available.*`val_loss`.*"),
        pytest.param(["--trainer.logger", "WandbLogger"], ".*'wandb.*not met.*", marks=without_wandb),
    ],
)
def test_trainer_error_is_one_line(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-cv", *FIT, *(() if "barebones" in options[0] else QUIET), *options])
    with pytest.raises(SystemExit) as error:
        console()
    pattern = ".*".join(map(re.escape, message.split(".*")))
    assert re.fullmatch(f"lit-cv: error: {pattern}", str(error.value))


def test_missing_package_is_user_error(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_stats_monitor, "_PSUTIL_AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError, match="psutil") as error:
        main([*FIT, *QUIET, "--trainer.callbacks+=DeviceStatsMonitor"])
    assert is_user_error(error.value)


def test_barebones_trainer(in_tmp: Path) -> None:
    cli = main([*FIT, "--trainer.barebones", "true"])
    assert cli is not None
    assert cli.trainer.global_step == 4
    assert not Path("lightning_logs").exists()


def test_validation_by_time(in_tmp: Path) -> None:
    main([*FIT, *QUIET, "--trainer.val_check_interval", "00:00:00:01"])
    assert (in_tmp / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt").is_file()
