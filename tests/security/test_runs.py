"""The folder of a run: no link in it is followed, one process continues it, and no later checkpoint is lost."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_cv.callbacks import MonitorEarlyStopping, RunCheckpoint
from lit_cv.callbacks.monitored import is_better
from lit_cv.cli import main
from lit_cv.file_lock import FileLock
from lit_cv.metrics_table import read_metrics
from lit_cv.optim.schedules import Plateau
from lit_cv.running.runs import claim_run, find_checkpoint, make_run_folder
from tests.callbacks.tiny import Tiny, loader, trainer
from tests.security.hostile import QUICK, error_line

pytestmark = pytest.mark.slow

LOGS = Path("lightning_logs")
RUN = LOGS / "version_0"
LONGER = [option for option in QUICK if "max_epochs" not in option]
FIT = ["fit", "--config", "supervised", *LONGER]


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Number(L.Callback):
    """Logs the epoch number as a metric, so that the first epoch is the best."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("epoch_number", float(trainer.current_epoch))


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, the best of which is the first."""
    root = tmp_path_factory.mktemp("longer")
    number = "--trainer.callbacks+=tests.security.test_runs.Number"
    main([*FIT, "--trainer.max_epochs=3", "--checkpoint.monitor=epoch_number", number,
          f"--trainer.default_root_dir={root}"])  # fmt: skip
    return root / RUN


@pytest.fixture
def fitted(longer: Path, in_tmp: Path) -> Path:
    """A working directory with a copy of that run."""
    shutil.copytree(longer, in_tmp / RUN)
    return in_tmp


LINKS = ("config.yaml", "checkpoints/last.ckpt", ".metrics.csv.part")
MORE_LINKS = (
    "hparams.yaml", "metrics.csv", "training_curves.png", "checkpoints/best.ckpt", "checkpoints/previous.ckpt",
    "checkpoints/.last.ckpt.part", ".config.yaml.part", "predictions.csv", ".predictions.csv.part",
)  # fmt: skip


@pytest.mark.parametrize("name", [*LINKS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_LINKS)])
@pytest.mark.slow
def test_links_in_run_folder_are_not_followed(fitted: Path, name: str) -> None:
    victim = fitted / "victim"
    path = RUN / name
    if path.is_file():  # files that are read keep their content behind the link
        victim.write_bytes(path.read_bytes())
        path.unlink()
    else:
        victim.write_text("years of work")
    before = victim.read_bytes()
    path.symlink_to(victim)
    main(
        [
            "fit",
            "--ckpt_path",
            "last",
            "--trainer.max_epochs=4",
            "--trainer.callbacks=null",
            "--checkpoint.monitor=null",
        ]
    )
    main(["predict", "--ckpt_path", "last"])
    assert victim.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightning_logs/version_0", "lightning_logs/version_0/checkpoints", "lock"])
def test_linked_run_folders_and_locks_are_refused(fitted: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "lock":
        (fitted / "victim.txt").write_text("years of work")
        (RUN / ".lock").unlink()
        (RUN / ".lock").symlink_to(fitted / "victim.txt")
    else:
        Path(name).rename(fitted / "moved")
        Path(name).symlink_to(fitted / "moved")
    before = content_of(fitted)
    error = error_line(
        ["fit", "--ckpt_path", str(RUN / "checkpoints" / "last.ckpt"), "--trainer.max_epochs=4"], monkeypatch
    )
    assert error is not None
    assert "is a link" in error
    assert content_of(fitted) == before


@pytest.mark.slow
def test_older_checkpoint_starts_new_run(fitted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert step_of(RUN / "checkpoints" / "best.ckpt") == 2
    assert step_of(RUN / "checkpoints" / "last.ckpt") == 6
    before = content_of(RUN)
    cli = main(["fit", "--ckpt_path", "best", "--trainer.max_epochs=2"])
    assert cli is not None
    assert cli.trainer.global_step == 4
    assert content_of(RUN) == before
    stderr = capfd.readouterr().err
    assert "is from step 2, but its run continued to step 6: starting a new run" in stderr
    new = LOGS / "version_1"
    assert step_of(new / "checkpoints" / "last.ckpt") == 4
    assert step_of(new / "checkpoints" / "best.ckpt") == 2  # copied from the run that it starts from
    assert {row["step"] for row in read_metrics(new / "metrics.csv")} >= {3}
    main(["fit", "--ckpt_path", "last", "--trainer.max_epochs=3"])  # of the new run
    assert step_of(new / "checkpoints" / "last.ckpt") == 6
    assert content_of(RUN) == before


@pytest.mark.slow
def test_previous_checkpoint_starts_new_run(fitted: Path) -> None:
    previous = RUN / "checkpoints" / "previous.ckpt"
    before = content_of(RUN)
    assert find_checkpoint(str(previous)).further_step() == 6
    assert find_checkpoint("last").further_step() is None
    main(["fit", "--ckpt_path", str(previous), "--trainer.max_epochs=3"])
    assert content_of(RUN) == before
    assert (LOGS / "version_1").is_dir()


@pytest.mark.slow
def test_concurrent_resume_is_refused(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_of(RUN)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time\nfrom pathlib import Path\nfrom lit_cv.file_lock import FileLock\n"
         "lock = FileLock(Path(sys.argv[1]) / '.lock')\nprint(lock.acquire(), flush=True)\ntime.sleep(600)", str(RUN)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        error = error_line(["fit", "--ckpt_path", "last", "--trainer.max_epochs=4"], monkeypatch)
        assert error is not None
        assert f"another process is using the run folder {RUN}" in error
        assert content_of(RUN) == before
    finally:
        holder.kill()
        holder.wait()
    main(["fit", "--ckpt_path", "last", "--trainer.max_epochs=4"])  # the end of the holder has released the lock
    assert step_of(RUN / "checkpoints" / "last.ckpt") == 8


def test_lock_is_released_despite_surviving_workers(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / ".lock")
    assert lock.acquire()
    child = os.fork()
    if child == 0:  # a worker that outlives its parent
        time.sleep(60)
        os._exit(0)
    lock.release()
    try:
        free, deadline = (
            FileLock(tmp_path / ".lock"),
            time.monotonic() + 10,
        )  # the child needs a moment to close its copy
        while not free.acquire():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_concurrent_runs_get_separate_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(make_run_folder, [tmp_path / "logs"] * 40))
    assert {folder.name for folder in folders} == {f"version_{number}" for number in range(40)}


def test_unfinished_files_of_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (".last.ckpt.0123456789abcdef.part", "checkpoints/.last.ckpt.0123456789abcdef.part"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".notes.0123456789abcdef.part").symlink_to(tmp_path / "elsewhere")
    others = {".particles.csv", ".thesis.partial.txt", ".partition", ".video.part", ".0123456789abcdef.part"}
    for name in others:  # files of the user
        (tmp_path / name).write_text("years of work")
    claim_run(tmp_path).release()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"checkpoints", ".lock", ".notes.0123456789abcdef.part", *others}


@pytest.mark.parametrize(("mode", "broken"), [("min", -math.inf), ("max", math.inf), ("min", math.nan)])
def test_non_finite_score_is_never_best(tmp_path: Path, mode: str, broken: float) -> None:
    scores = [0.5, broken, 0.5 - 0.1 if mode == "min" else 0.6]
    checkpoint = RunCheckpoint(mode=mode)
    trainer(tmp_path, max_epochs=3, callbacks=[checkpoint]).fit(Tiny(scores), loader(), loader())
    assert checkpoint.best_model_score == pytest.approx(scores[2])
    schedule = Plateau(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), mode=mode)  # type: ignore[arg-type]
    for score in scores:
        schedule.observe(score)
    assert schedule.best == scores[2]


@pytest.mark.parametrize(("mode", "broken"), [("min", -math.inf), ("max", math.inf), ("max", math.nan)])
def test_non_finite_score_does_not_replace_best(tmp_path: Path, mode: str, broken: float) -> None:
    checkpoint = RunCheckpoint(mode=mode)
    trainer(tmp_path, max_epochs=2, callbacks=[checkpoint]).fit(Tiny([0.5, broken]), loader(), loader())
    assert step_of(tmp_path / "checkpoints" / "best.ckpt") == 4
    assert checkpoint.best_model_score == pytest.approx(0.5)
    assert not is_better(broken, 0.5, mode)
    assert is_better(0.5, broken, mode)


def test_non_finite_first_score_is_replaced(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(mode="min")
    trainer(tmp_path, max_epochs=2, callbacks=[checkpoint]).fit(Tiny([-math.inf, 0.5]), loader(), loader())
    assert checkpoint.best_model_score == pytest.approx(0.5)


def test_score_of_other_metric_is_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = RunCheckpoint(monitor="val_score", mode="min")
    trainer(tmp_path, max_epochs=2, callbacks=[first]).fit(Tiny([0.001, 0.5]), loader(), loader())
    folder = tmp_path / "checkpoints"
    best = (folder / "best.ckpt").read_bytes()
    second = RunCheckpoint(monitor="val_score", mode="max")
    stopping = MonitorEarlyStopping(patience=9)
    with caplog.at_level("INFO", "lit_cv"):
        run = trainer(tmp_path, max_epochs=4, callbacks=[second, stopping])
        run.fit(Tiny([0.001, 0.5, 0.2, 0.3]), loader(), loader(), ckpt_path=folder / "last.ckpt")
    assert second.best_model_score == pytest.approx(0.3)
    assert float(stopping.best_score) == pytest.approx(0.3)
    assert (folder / "best_by_val_score.ckpt").read_bytes() == best
    assert "the previous best is kept as" in caplog.text


def test_moved_run_keeps_best_checkpoint(tmp_path: Path) -> None:
    trainer(tmp_path / "a", max_epochs=2, callbacks=[RunCheckpoint(mode="max")]).fit(
        Tiny([0.9, 0.1]), loader(), loader()
    )
    (tmp_path / "a").rename(tmp_path / "b")
    again = RunCheckpoint(mode="max")
    run = trainer(tmp_path / "b", max_epochs=3, callbacks=[again])
    run.fit(Tiny([0.9, 0.1, 0.5]), loader(), loader(), ckpt_path=tmp_path / "b" / "checkpoints" / "last.ckpt")
    assert again.best_model_score == pytest.approx(0.9)
    assert again.best_model_path == str(tmp_path / "b" / "checkpoints" / "best.ckpt")


def test_foreign_state_names_no_other_file(tmp_path: Path) -> None:
    trainer(tmp_path / "a", max_epochs=1, callbacks=[RunCheckpoint()]).fit(Tiny([0.5]), loader(), loader())
    content = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    state = next(state for name, state in content["callbacks"].items() if "RunCheckpoint" in name)
    state |= {"best_model_path": "/etc/passwd", "best_model_score": -1e9}
    torch.save(content, tmp_path / "x.ckpt")
    again = RunCheckpoint(mode="min")
    trainer(tmp_path / "b", max_epochs=2, callbacks=[again]).fit(
        Tiny([0.5, 0.4]), loader(), loader(), ckpt_path=tmp_path / "x.ckpt"
    )
    assert again.best_model_score == pytest.approx(0.4)
