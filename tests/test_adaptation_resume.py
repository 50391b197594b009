"""Adaptation that is killed and continued ends as if it had not been, and two processes share both domains."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.cli import main
from tests.processes import run_program
from tests.test_resume import CALLBACKS, assert_same_end, final, run_until_killed

QUIET = [
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
]  # fmt: skip
# 9 and 5 batches: the shorter set begins anew in the middle of an epoch.
DATA = """
data:
  class_path: DomainAdaptationDataModule
  init_args:
    batch_size: 16
    source: {class_path: ShapesDataModule, init_args: {image_size: 28, num_images: 180}}
    target: {class_path: ShapesDataModule, init_args: {image_size: 20, num_images: 100, domain: outlined, seed: 5}}
trainer: {max_epochs: 2}
"""
VIEWS = [
    "--trainer.callbacks+=WeakStrongAugmentation", "--trainer.callbacks.weak", "[horizontal_flip]",
    "--trainer.callbacks.strong", "small_images_strong",
]  # fmt: skip
RUNS: dict[str, list[str]] = {
    "self_training": [
        "--model", "SelfTrainingModule", "--model.threshold", "0.13", "--model.teacher_decay", "0.8",
        "--model.dropout", "0.3", *VIEWS,
    ],
    "dann": [
        "--model", "DomainAdversarialModule", "--model.conditioning", "entropy", "--model.dropout", "0.3",
        "--ema.decay", "0.9", "--trainer.accumulate_grad_batches", "2", "--trainer.callbacks+=Augmentation",
        "--data.num_workers", "1",
    ],
}  # fmt: skip


def command(name: str, root: Path) -> list[str]:
    (root / "domains.yaml").write_text(DATA)
    (root / "killer.py").write_text(CALLBACKS)
    return [
        "fit", "--config", str(root / "domains.yaml"), "--trainer.callbacks", "null", *RUNS[name],
        "--model.backbone", "conv4", "--checkpoint.every_n_steps", "2", *QUIET, "--trainer.default_root_dir", str(root),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Uninterrupted runs by name, each made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            main(command(name, made[name]))
        return made[name]

    return make


@pytest.mark.parametrize(("name", "step"), [("self_training", 7), ("self_training", 13), ("dann", 7)])
def test_killed_at_any_step(in_tmp: Path, whole: Any, name: str, step: int) -> None:
    fit = command(name, in_tmp)
    run_until_killed([*fit, "--trainer.callbacks+=killer.Kill", f"--trainer.callbacks.step={step}"])
    assert 0 < final(in_tmp)["global_step"] <= step
    main([*fit, "--ckpt_path", "last"])
    assert_same_end(in_tmp, whole(name))
    if name == "self_training":
        state = final(in_tmp)["state_dict"]
        assert any(key.startswith("teacher.backbone.body") for key in state)
        assert not torch.equal(state["teacher.head.linear.weight"], state["head.linear.weight"])
        assert not torch.equal(state["class_share"], torch.full((8,), 1 / 8))


def test_two_processes_share_both_domains(in_tmp: Path) -> None:
    """Without BatchNorm they learn what one learns from their joined batches."""
    (in_tmp / "domains.yaml").write_text(DATA)
    fit = [
        "fit", "--config", str(in_tmp / "domains.yaml"), "--model", "DomainAdversarialModule", "--model.backbone",
        "lenet", "--model.optimizer", "sgd", "--model.lr", "0.01", *QUIET, "--trainer.limit_val_batches", "0",
        "--trainer.max_epochs", "1", "--trainer.logger", "false",
    ]  # fmt: skip
    found = {}
    for ranks, name, options in (
        (1, "one", ["--data.batch_size", "16"]),
        (2, "two", ["--data.batch_size", "8", "--trainer.devices", "2", "--trainer.strategy", "ddp"]),
    ):
        for rank in run_program([*fit, *options, "--trainer.default_root_dir", str(in_tmp / name)], in_tmp, ranks):
            assert rank.returncode == 0, rank.stderr
        found[name] = torch.load(in_tmp / name / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["one"]["global_step"] == found["two"]["global_step"] == 9
    for key, value in found["one"]["state_dict"].items():
        torch.testing.assert_close(found["two"]["state_dict"][key], value, rtol=0, atol=2e-5, msg=key)
