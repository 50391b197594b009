"""Precision of recipes on simulated devices."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_cv.cli import main
from lit_cv.nn import create_backbone
from lit_cv.running.arguments import prepare_run
from lit_cv.running.precision import depthwise_share, is_slow_in_bfloat16
from lit_cv.running.training import LitCLI

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary",
         "false", "--data.num_workers", "0"]  # fmt: skip
DEPTHWISE = "timm/mobilenetv3_small_050"


@pytest.fixture
def fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_cv.running.arguments.has_bfloat16", lambda accelerator: True)


def built(*args: str) -> LitCLI:
    """Build the CLI of a command without running it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LitCLI, "_run_subcommand", lambda self, name: None)
        return LitCLI(*prepare_run(["fit", *args, *QUIET]))


def precisions(cli: LitCLI) -> set[str]:
    return {cli.trainer.precision, cli.config["fit"]["trainer"]["precision"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depthwise"),
    [("resnet18", False), ("vit_micro_p4", False), ("conv4", False), (DEPTHWISE, True), ("efficientnet_b0", True),
     ("convnext_tiny", True), ("regnet_x_400mf", False)],
)  # fmt: skip
def test_is_slow_in_bfloat16(name: str, depthwise: bool) -> None:
    before = torch.get_rng_state()
    assert is_slow_in_bfloat16(name, "cpu") is depthwise
    assert torch.equal(torch.get_rng_state(), before)
    assert depthwise_share(create_backbone(name)) > 0.5 or not depthwise


@pytest.mark.usefixtures("fast_bfloat16")
@pytest.mark.parametrize(("backbone", "expected"), [("resnet18", "bf16-mixed"), (DEPTHWISE, "32-true")])
def test_recipe_precision_suits_network(
    in_tmp: Path, backbone: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lit_cv")
    cli = built("--config", "simclr", "--model.backbone", backbone)
    assert precisions(cli) == {expected}
    assert caplog.text.count(f"Precision {expected}: ") >= 1
    assert ("depthwise convolutions" in caplog.text) == (backbone == DEPTHWISE)


@pytest.mark.usefixtures("fast_bfloat16")
def test_user_precision_wins(in_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lit_cv")
    Path("mine.yaml").write_text("trainer: {precision: bf16-mixed}\n")
    for given in (["--trainer.precision", "bf16-mixed"], ["--config", "mine.yaml"]):
        assert precisions(built("--config", "simclr", "--model.backbone", DEPTHWISE, *given)) == {"bf16-mixed"}
    assert "Precision bf16" not in caplog.text


def test_accelerator_is_never_slow_in_bfloat16(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr("lit_cv.running.precision._device", lambda name: None if name == "cpu" else device)
    assert not is_slow_in_bfloat16(DEPTHWISE, "auto")
    assert is_slow_in_bfloat16(DEPTHWISE, "cpu")


def test_unknown_network_is_not_slow() -> None:
    assert not is_slow_in_bfloat16("no_such_network", "cpu")


@pytest.mark.slow
def test_run_precision_is_kept(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("lit_cv.running.arguments.has_bfloat16", lambda accelerator: True)
        main(["fit", "--config", "fine_tune", "--model.backbone", DEPTHWISE, "--data.num_images", "100",
              *QUIET, *short])  # fmt: skip
    run = Path("lightning_logs/version_0")
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == "32-true"
    checkpoint = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), *QUIET]
    for args in (["validate", *checkpoint], ["fit", *checkpoint, "--trainer.max_epochs", "2"]):
        cli: Any = main(args)
        assert cli.trainer.precision == "32-true"
