"""Training on two ranks equals training in one process on the joined batches."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.metrics_table import read_metrics
from tests.processes import run_program
from tests.test_resume import CALLBACKS

# A network without BatchNorm, whose statistics would cover only the batch of each rank.
FIT = [
    "fit", "--trainer.callbacks", "null",
    "--model", "SupervisedModule", "--model.backbone", "squeezenet1_1", "--model.optimizer", "sgd",
    "--model.lr", "0.01", "--model.warmup_epochs", "0.5", "--model.schedule", "constant", "--data", "counted.Counted",
    "--data.num_images", "160", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu",
    "--trainer.enable_progress_bar", "false", "--trainer.gradient_clip_val", "1.0", "--ema.decay", "0.9",
]  # fmt: skip
DATA = """
from datamodules import ShapesDataModule

class Counted(ShapesDataModule):
    def prepare_data(self):
        with open("prepared.txt", "a") as file:
            file.write("once ")
"""
TERMINATOR = """
import signal
import lightning as L

class Terminate(L.Callback):
    def on_train_batch_start(self, trainer, *args):
        if trainer.global_rank == 1 and trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
"""
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "15"]
ONE = ["--trainer.devices", "1", "--data.batch_size", "30"]


def run(root: Path, *options: str, completes: bool = True) -> Path:
    (root / "counted.py").write_text(DATA)
    args = [*FIT, *options, "--trainer.default_root_dir", str(root)]
    ended = run_program(args, root, ranks=2 if "ddp" in options else 1)
    output = "".join(rank.stderr for rank in ended)
    assert {rank.returncode == 0 for rank in ended} == {completes}, output
    assert output.count("Best checkpoint") == completes  # reported once
    return root / "lightning_logs" / "version_0"


def last(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: run(tmp_path_factory.mktemp(name), *options) for name, options in (("one", ONE), ("two", TWO))}


@pytest.mark.slow
def test_two_ranks_equal_one_process(runs: dict[str, Path]) -> None:
    one, two = last(runs["one"]), last(runs["two"])
    assert one["global_step"] == two["global_step"] == 8
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=5e-5, msg=name)
    rows = {name: read_metrics(folder / "metrics.csv") for name, folder in runs.items()}
    for a, b in zip(rows["one"], rows["two"], strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"train_loss_step"}:  # of the batch of rank 0
            assert b[name] == pytest.approx(a[name], abs=1e-4), name


@pytest.mark.slow
def test_prepare_data_runs_once_per_node(runs: dict[str, Path]) -> None:
    for folder in runs.values():
        assert (folder.parent.parent / "prepared.txt").read_text() == "once "


@pytest.mark.slow
def test_two_rank_resume_is_exact(runs: dict[str, Path], in_tmp: Path) -> None:
    (in_tmp / "killer.py").write_text(CALLBACKS)
    kill = ["--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=7", "--checkpoint.every_n_steps", "3"]
    run(in_tmp, *TWO, *kill, completes=False)
    assert last(in_tmp / "lightning_logs" / "version_0")["global_step"] == 6
    resumed, uninterrupted = last(run(in_tmp, *TWO, "--ckpt_path", "last")), last(runs["two"])
    assert resumed["global_step"] == uninterrupted["global_step"] == 8
    for name, value in uninterrupted["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


@pytest.mark.slow
def test_sigterm_to_one_rank_stops_all_at_same_step(in_tmp: Path) -> None:
    (in_tmp / "terminator.py").write_text(TERMINATOR)
    options = ["--trainer.callbacks+=terminator.Terminate", "--data.num_images", "600"]
    folder = run(in_tmp, *TWO, *options, completes=False)
    assert last(folder)["global_step"] == 10  # an epoch has 16 steps
