"""Logs, checkpoints and resume of fine-tuning runs, beyond the contracts that every approach is tested for."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.cli import main
from lit_cv.metrics_table import read_metrics
from tests.test_resume import CALLBACKS, final, run_until_killed

PRETRAIN = [
    "fit", "--model", "SupervisedModule", "--model.backbone", "conv4", "--model.lr", "3e-3",
    "--data", "DigitsDataModule", "--data.classes", "[0,1,2,3,4]", "--trainer.max_epochs", "1",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false",
]  # fmt: skip
FIT = [
    "fit", "--trainer.callbacks", "null",
    "--model", "FineTuneModule", "--model.dropout", "0.3", "--data", "DigitsDataModule",
    "--data.labels_per_class", "30", "--data.batch_size", "32", "--trainer.max_epochs", "3",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false", "--checkpoint.every_n_steps", "2",
]  # fmt: skip
GRADUAL = ["--model.strategy", "gradual_unfreezing", "--model.layer_decay", "0.8"]
AUGMENT = ["--trainer.callbacks+=Augmentation", "--trainer.callbacks.policy", "small_images"]
CACHED = ["--model.strategy", "feature_extraction", "--model.cache_features", "true"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("pretrained")
    main([*PRETRAIN, "--trainer.default_root_dir", str(root)])
    return str(root / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, weights: str) -> Any:
    """A function that returns the folder of an uninterrupted run with some options, and runs it once."""
    folders: dict[tuple[str, ...], Path] = {}

    def run(options: list[str]) -> Path:
        if tuple(options) not in folders:
            folders[tuple(options)] = root = tmp_path_factory.mktemp("uninterrupted")
            main([*FIT, "--model.weights", weights, *options, "--trainer.default_root_dir", str(root)])
        return folders[tuple(options)]

    return run


@pytest.mark.slow
def test_group_learning_rates_are_logged(uninterrupted: Any) -> None:
    folder = uninterrupted(GRADUAL + AUGMENT + ["--ema.decay", "0.9"]) / "lightning_logs" / "version_0"
    rows = read_metrics(folder / "metrics.csv")
    first = {name: min(int(row["step"]) for row in rows if name in row) for row in rows for name in row if "lr" in name}
    assert {name: step // 9 for name, step in first.items()} == {
        "lr": 0, "lr_head": 0, "lr_blocks_3": 1, "lr_blocks_2": 2,
    }  # fmt: skip
    last = next(row for row in reversed(rows) if "lr" in row)
    assert last["lr_head"] == last["lr"]
    assert last["lr_blocks_3"] == pytest.approx(0.1 * 0.8 * last["lr"])
    assert last["lr_blocks_2"] == pytest.approx(0.1 * 0.8**2 * last["lr"])


@pytest.mark.slow
def test_new_options_win_on_resume(in_tmp: Path, weights: str) -> None:
    (in_tmp / "killer.py").write_text(CALLBACKS)
    fit = [*FIT, *GRADUAL, "--model.schedule", "constant", "--trainer.default_root_dir", str(in_tmp)]
    kill = ["--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=13"]
    run_until_killed([*fit, "--model.weights", weights, *kill])
    cli = main([*fit, "--model.backbone_lr", "0.002", "--model.lr", "0.004", "--ckpt_path", "last"])
    assert cli is not None
    rates = {group["layer"]: group["lr"] for group in cli.trainer.optimizers[0].param_groups}
    names = [f"{layer}.{kind}" for layer in rates for kind in ("decay", "no_decay")]
    assert [group["name"] for group in final(in_tmp)["optimizer_states"][0]["param_groups"]] == names
    assert rates == pytest.approx({"head": 0.004, "blocks.3": 0.0016, "blocks.2": 0.00128})
    with pytest.raises(ValueError, match="resume with the same options, or start a new run"):
        main([*FIT, "--model.strategy", "full_finetune", "--trainer.default_root_dir", str(in_tmp),
              "--ckpt_path", "last"])  # fmt: skip


@pytest.mark.slow
def test_checkpoint_has_no_optimizer_state_of_frozen_layers(uninterrupted: Any) -> None:
    checkpoint = final(uninterrupted(CACHED))
    assert len(checkpoint["optimizer_states"][0]["state"]) == 2  # weight and bias of the classifier
    backbone = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("backbone.body")}
    assert all(torch.isfinite(value).all() for value in backbone.values())
