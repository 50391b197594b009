"""A signal to the process group, as `timeout`, SLURM and systemd send it, saves the current step."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.utils import save_image

from lit_cv.cli import main
from tests.processes import start_program
from tests.test_resume import FIT, assert_same_end, final

# Each rank reports that it has reached the place, and waits until the signal is sent and workers had time to die of it.
MEETING = """
import multiprocessing
import time
from pathlib import Path
import lightning as L
import datamodules.cache

def meet(rank=0):
    if not Path("sent").exists():
        Path(f"reached_{rank}").touch()
        while not Path("sent").exists():
            time.sleep(0.01)
        for worker in multiprocessing.active_children():
            worker.join(0.05)

class Meet(L.Callback):
    def __init__(self, step: int = 3, where: str = "training") -> None:
        self.step, self.where = step, where
    def on_train_batch_start(self, trainer, *args):
        if self.where == "training" and trainer.global_step == self.step:
            meet(trainer.global_rank)
    def on_validation_batch_start(self, trainer, *args):
        if self.where == "validation" and not trainer.sanity_checking:
            meet(trainer.global_rank)

class MeetWhileDecoding(L.Callback):
    def __init__(self) -> None:
        read = datamodules.cache.read_image
        def read_and_meet(*args):
            meet()
            return read(*args)
        datamodules.cache.read_image = read_and_meet
"""
WORKERS = [*FIT, "--checkpoint.every_n_steps", "0", "--data.num_workers", "2"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "8"]


def run_and_signal(root: Path, number: signal.Signals, *args: str, ranks: int = 1) -> tuple[int, str]:
    """Run the program in a new process group, signal the group once, and return exit status and standard error."""
    (root / "meeting.py").write_text(MEETING)
    stderr = root / "stderr.txt"
    group = start_program([*args, "--trainer.default_root_dir", str(root)], root, root / "output.txt", stderr)
    assert group.pid is not None
    try:
        while not all((root / f"reached_{rank}").exists() for rank in range(ranks)):
            assert group.is_alive(), stderr.read_text()
            time.sleep(0.01)
        os.killpg(group.pid, number)
        (root / "sent").touch()
        group.join(timeout=240)
        assert group.exitcode is not None, stderr.read_text()
        return group.exitcode, stderr.read_text()
    finally:
        if group.is_alive():
            os.killpg(group.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("uninterrupted")
    main([*WORKERS, "--data.num_workers", "0", "--trainer.default_root_dir", str(root)])
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "where", "status", "step"),
    [
        (signal.SIGTERM, "training", 143, 4),
        (signal.SIGINT, "training", 1, 4),
        (signal.SIGTERM, "validation", 143, 9),
    ],
)
def test_signal_to_one_rank_with_workers(
    in_tmp: Path, uninterrupted: Path, number: signal.Signals, where: str, status: int, step: int
) -> None:
    meet = ["--trainer.callbacks+=meeting.Meet", f"--trainer.callbacks.where={where}"]
    exit_status, stderr = run_and_signal(in_tmp, number, *WORKERS, *meet)
    assert exit_status == status, stderr
    assert stderr.count("finishing this step and saving") == 1  # not logged by workers
    assert "--data.num_workers" not in stderr
    assert final(in_tmp)["global_step"] == step
    main([*WORKERS, "--data.num_workers", "0", "--trainer.default_root_dir", str(in_tmp), "--ckpt_path", "last"])
    assert_same_end(in_tmp, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "step"), [("training", 10), ("validation", 18)])
def test_signal_to_two_ranks_with_workers(in_tmp: Path, where: str, step: int) -> None:
    """The ranks synchronize every ten steps, and at the end of an epoch of 18 steps."""
    meet = ["--trainer.callbacks+=meeting.Meet", f"--trainer.callbacks.where={where}"]
    exit_status, stderr = run_and_signal(in_tmp, signal.SIGTERM, *WORKERS, *TWO, *meet, ranks=2)
    assert exit_status == 143, stderr
    assert final(in_tmp)["global_step"] == step
    assert f"Stopped at step {step}. Continue with" in stderr


def test_sigterm_while_filling_cache(in_tmp: Path) -> None:
    photos = in_tmp / "photos"
    for name in ("a", "b"):
        (photos / name).mkdir(parents=True)
        for number in range(4):
            save_image(torch.rand(3, 8, 8), photos / name / f"{number}.png")
    options = ["--data", "ImageFolderDataModule", "--data.root", str(photos), "--data.cache", "true"]
    fit: list[Any] = [*FIT[:5], *options, "--data.image_size", "8", "--trainer.accelerator", "cpu"]
    exit_status, stderr = run_and_signal(in_tmp, signal.SIGTERM, *fit, "--trainer.callbacks+=meeting.MeetWhileDecoding")
    assert exit_status == 143, stderr
    assert stderr.splitlines()[-1] == "lit-cv: stopped."
    assert [path.name for path in (photos / ".lit_cv_cache").iterdir()] == ["lock"]  # no unfinished file
    assert not (in_tmp / "lightning_logs").exists()  # no run without a step
