"""Several ranks, each of which reads the files, are as safe as one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import run_program
from tests.security.hostile import EVIL, MARKER, save_hostile

TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def run(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    command = [sys.executable, "-m", "lit_cv", *args, *TWO]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def assert_refused(ran: "subprocess.CompletedProcess[str]", words: str) -> None:
    assert ran.returncode != 0
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_two_ranks_run_no_code_from_files(in_tmp: Path) -> None:
    (in_tmp / "evil.py").write_text(EVIL)
    (in_tmp / "tensorboard.py").write_text(EVIL)
    save_hostile(in_tmp / "x.ckpt", "evil.EvilModule")
    assert_refused(run(in_tmp, "validate", "--data=DigitsDataModule", "--ckpt_path=x.ckpt"), "--trust evil")
    assert not (in_tmp / MARKER).exists()


@pytest.mark.slow
def test_two_ranks_do_not_write_through_links(fitted: Path) -> None:
    home = Path("lightning_logs") / "version_0"
    (fitted / "tensorboard.py").write_text(EVIL)
    (fitted / "victim").write_text("years of work")
    for name in ("config.yaml", "metrics.csv"):
        (home / f".{name}.part").symlink_to(fitted / "victim")
    (home / "training_curves.png").unlink()
    (home / "training_curves.png").symlink_to(fitted / "victim")
    ended = run_program(["fit", "--ckpt_path=last", "--trainer.max_epochs=2", *TWO], fitted, ranks=2)
    output = "".join(rank.stderr for rank in ended)
    assert [rank.returncode for rank in ended] == [0, 0], output
    assert output.count("Best checkpoint") == 1
    assert (fitted / "victim").read_text() == "years of work"
    assert not (fitted / MARKER).exists()
