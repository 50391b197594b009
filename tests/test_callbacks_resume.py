"""Exact resume of runs with Lightning's callbacks."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import StochasticWeightAveraging

from lit_cv.cli import main
from lit_cv.metrics_table import read_metrics
from tests.test_resume import CALLBACKS, FIT, assert_same_end, final, kill_and_resume, run_until_killed

AVERAGING = [
    "--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01",
    "--trainer.callbacks.swa_epoch_start=2",
]  # fmt: skip
FINDER = ["--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps=20"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns the folder of an uninterrupted run with some options, and runs it once."""
    folders: dict[str, Path] = {}

    def run(options: list[str]) -> Path:
        if options[0] not in folders:
            folders[options[0]] = tmp_path_factory.mktemp("uninterrupted")
            main([*FIT, *options, "--trainer.default_root_dir", str(folders[options[0]])])
        return folders[options[0]]

    return run


@pytest.fixture
def root(in_tmp: Path) -> Path:
    (in_tmp / "killer.py").write_text(CALLBACKS)
    return in_tmp


@pytest.mark.slow
def test_swa_resume_is_exact(root: Path, uninterrupted: Any) -> None:
    """Killed within the two epochs of 9 steps that are averaged; the contract tests use other steps."""
    kill_and_resume(root, AVERAGING, ["step=19"])
    assert_same_end(root, uninterrupted(AVERAGING))


@pytest.mark.slow
def test_swa_averages_epoch_weights(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    averaged: list[dict[str, torch.Tensor]] = []
    update = StochasticWeightAveraging.update_parameters

    def record(average: Any, model: Any, *args: Any) -> None:
        averaged.append({name: value.detach().clone() for name, value in model.named_parameters()})
        update(average, model, *args)

    monkeypatch.setattr(StochasticWeightAveraging, "update_parameters", staticmethod(record))
    main([*FIT, *AVERAGING, "--trainer.default_root_dir", str(root)])
    assert len(averaged) == 2
    end = final(root)["state_dict"]
    for name, first in averaged[0].items():
        torch.testing.assert_close(end[name], (first + averaged[1][name]) / 2, msg=name)


@pytest.mark.slow
def test_lr_finder_runs_once(
    root: Path, uninterrupted: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lit_cv"):
        kill_and_resume(root, FINDER, ["step=12"])
    assert_same_end(root, uninterrupted(FINDER))
    rows = read_metrics(root / "lightning_logs" / "version_0" / "metrics.csv")
    rates = [row["lr"] for row in rows if "lr" in row]
    suggested = final(root)["hyper_parameters"]["lr"]
    assert suggested != 1e-3
    assert rates[0] == suggested  # the cosine schedule decreases from there
    assert rates == sorted(rates, reverse=True)
    assert rates[1] > 0.9 * suggested
    assert "LearningRateFinder does not run again" in capfd.readouterr().err


@pytest.mark.slow
def test_batch_size_finder_runs_once(root: Path, uninterrupted: Any) -> None:
    options = [
        "--trainer.callbacks+=BatchSizeFinder",
        "--trainer.callbacks.init_val=32",
        "--trainer.callbacks.max_val=64",
    ]
    killer = ["--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=7"]
    args = ["--trainer.default_root_dir", str(root)]
    run_until_killed([*FIT, *options, *killer, *args])
    config = yaml.safe_load((root / "lightning_logs" / "version_0" / "config.yaml").read_text())
    assert config["data"]["init_args"]["batch_size"] == 64
    main(["fit", "--ckpt_path", "last", "--trainer.callbacks", "null", *args])
    assert_same_end(root, uninterrupted(options))
    end = final(root)
    assert end["global_step"] == 12  # 300 images: 4 complete batches per epoch
    assert end["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-5  # the schedule ends with the run
