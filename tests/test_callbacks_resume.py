"""Runs with Lightning's own callbacks, killed and continued, end as those that were not."""

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
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Uninterrupted runs by their options, each made once."""
    made: dict[str, Path] = {}

    def make(options: list[str]) -> Path:
        if options[0] not in made:
            made[options[0]] = tmp_path_factory.mktemp("whole")
            main([*FIT, *options, "--trainer.default_root_dir", str(made[options[0]])])
        return made[options[0]]

    return make


@pytest.fixture
def root(in_tmp: Path) -> Path:
    (in_tmp / "killer.py").write_text(CALLBACKS)
    return in_tmp


@pytest.mark.slow
def test_weights_are_averaged_over_epochs(root: Path, whole: Any) -> None:
    """Within the two epochs of 9 steps that are averaged; the contracts have other places."""
    kill_and_resume(root, AVERAGING, ["step=19"])
    assert_same_end(root, whole(AVERAGING))


def test_the_average_is_that_of_the_epochs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    update = StochasticWeightAveraging.update_parameters

    def watched(average: Any, model: Any, *args: Any) -> None:
        seen.append({name: value.detach().clone() for name, value in model.named_parameters()})
        update(average, model, *args)

    monkeypatch.setattr(StochasticWeightAveraging, "update_parameters", staticmethod(watched))
    main([*FIT, *AVERAGING, "--trainer.default_root_dir", str(root)])
    assert len(seen) == 2
    end = final(root)["state_dict"]
    for name, first in seen[0].items():
        torch.testing.assert_close(end[name], (first + seen[1][name]) / 2, msg=name)


@pytest.mark.slow
def test_the_learning_rate_is_found_once_and_kept(
    root: Path, whole: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lit_cv"):
        kill_and_resume(root, FINDER, ["step=12"])
    assert_same_end(root, whole(FINDER))
    rows = read_metrics(root / "lightning_logs" / "version_0" / "metrics.csv")
    rates = [row["lr"] for row in rows if "lr" in row]
    found = final(root)["hyper_parameters"]["lr"]
    assert found != 1e-3
    assert rates[0] == found  # and from there the cosine schedule goes down
    assert rates == sorted(rates, reverse=True)
    assert rates[1] > 0.9 * found
    assert "LearningRateFinder does not run again" in capfd.readouterr().err


@pytest.mark.slow
def test_the_batch_size_is_found_once_and_kept(root: Path, whole: Any) -> None:
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
    assert_same_end(root, whole(options))
    end = final(root)
    assert end["global_step"] == 12  # of 300 images: 4 whole batches an epoch
    assert end["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-5  # the schedule ends with the run
