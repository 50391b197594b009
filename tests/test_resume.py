"""A run that is killed and resumed ends with the same weights, bit for bit, as an uninterrupted one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cv.cli import main
from lit_cv.metrics_table import read_metrics
from tests.custom_parts import write_files
from tests.processes import run_program

CALLBACKS = '''
import os, signal
import lightning as L
from lit_cv.callbacks import RunCheckpoint

class Killed(BaseException):
    """Like SIGKILL, not caught by anything."""

class Kill(L.Callback):
    def __init__(self, step: int, where: str = "batch", real: bool = False) -> None:
        self.step, self.where, self.real = step, where, real
    def _die(self, trainer):
        if trainer.global_step >= self.step:
            if self.where == "interrupt":
                signal.raise_signal(signal.SIGINT)
                return
            if self.real:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed
    def on_train_batch_start(self, trainer, *args):
        if self.where in ("batch", "interrupt"):
            self._die(trainer)
    def on_validation_batch_start(self, trainer, *args):
        if self.where == "validation" and not trainer.sanity_checking:
            self._die(trainer)
    def on_save_checkpoint(self, trainer, *args):
        if self.where == "save":
            self._die(trainer)
'''
# A resumed run keeps the callbacks of its configuration; null removes the killer.
FIT = [
    "fit", "--trainer.callbacks", "null",
    "--model", "SupervisedModule", "--model.backbone", "conv4", "--model.dropout", "0.3",
    "--data", "DigitsDataModule", "--data.labels_per_class", "30", "--data.batch_size", "32",
    "--trainer.max_epochs", "3", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false", "--checkpoint.every_n_steps", "2",
]  # fmt: skip
AUGMENT = ["--trainer.callbacks+=Augmentation", "--trainer.callbacks.policy", "small_images"]
SLOW = pytest.mark.slow
EVERYTHING = [
    *AUGMENT, "--ema.decay", "0.9", "--trainer.accumulate_grad_batches", "2",
    "--early_stopping.patience", "2", "--model.optimizer", "sgd", "--model.warmup_epochs", "0.5",
    "--trainer.gradient_clip_val", "1.0", "--data.num_workers", "2",
]  # fmt: skip


def final(root: Path) -> dict[str, Any]:
    path = root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def assert_same(a: Any, b: Any, path: str = "") -> None:
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{index}")
    else:
        assert a == b, path


def assert_same_end(killed: Path, uninterrupted: Path) -> None:
    a, b = final(killed), final(uninterrupted)
    assert a["global_step"] == b["global_step"] > 0
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "ema"):
        assert_same(a.get(key), b.get(key), key)
    rows = [read_metrics(root / "lightning_logs" / "version_0" / "metrics.csv") for root in (killed, uninterrupted)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns the folder of an uninterrupted run with some options, and runs it once."""
    folders: dict[tuple[str, ...], Path] = {}

    def run(options: list[str]) -> Path:
        key = tuple(options)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("uninterrupted")
            main([*FIT, *options, "--trainer.default_root_dir", str(folders[key])])
        return folders[key]

    return run


def run_until_killed(args: list[str]) -> None:
    try:
        main(args)
    except BaseException as error:
        if type(error).__name__ == "Killed":  # its file is imported anew by each run
            return
        raise
    pytest.fail("the run was not killed")


def kill_and_resume(root: Path, options: list[str], kill: list[str], resume: list[str] | None = None) -> None:
    killer = ["--trainer.callbacks+=killer.Kill", *(f"--trainer.callbacks.{option}" for option in kill)]
    run_until_killed([*FIT, *options, *killer, "--trainer.default_root_dir", str(root)])
    main([*FIT, *options, *(resume or []), "--trainer.default_root_dir", str(root), "--ckpt_path", "last"])


@pytest.fixture
def root(in_tmp: Path) -> Path:
    (in_tmp / "killer.py").write_text(CALLBACKS)
    return in_tmp


# Within an epoch of 9 steps, after its last step, and one step later; the contract tests stop at every batch.
@pytest.mark.parametrize("step", [pytest.param(3, marks=SLOW), 9, pytest.param(19, marks=SLOW)])
@pytest.mark.slow
def test_resume_is_exact(root: Path, uninterrupted: Any, step: int) -> None:
    kill_and_resume(root, AUGMENT, [f"step={step}"])
    assert_same_end(root, uninterrupted(AUGMENT))


@pytest.mark.slow
def test_resume_is_exact_with_custom_parts(root: Path, uninterrupted: Any) -> None:
    write_files(root)
    options = [
        "--model.backbone", "mynet.TinyNet", "--model.optimizer", "mine.Slow", "--model.schedule", "mine.steps",
        "--model.metrics", "[kappa, scores.TopTwo]", "--model.warmup_epochs", "0.5", "--model.min_lr", "1e-5",
        "--trainer.callbacks+=Augmentation", "--trainer.callbacks.operations", "[random_crop, {name: sol.Invert}]",
    ]  # fmt: skip
    kill_and_resume(root, options, ["step=13"])
    assert_same_end(root, uninterrupted(options))


@pytest.mark.slow
def test_resume_warns_of_changed_batch_size(root: Path) -> None:
    args = [*FIT, "--trainer.default_root_dir", str(root), "--trainer.max_epochs"]
    main([*args, "1"])
    with pytest.warns(UserWarning, match="written with batch_size=32, now 16: the resumed run will differ"):
        main([*args, "2", "--data.batch_size", "16", "--ckpt_path", "last"])


@pytest.mark.parametrize("where", ["validation", "save"])
@pytest.mark.slow
def test_resume_is_exact_after_kill_in_validation_or_save(root: Path, uninterrupted: Any, where: str) -> None:
    kill_and_resume(root, AUGMENT, ["step=9", f"where={where}"])
    assert_same_end(root, uninterrupted(AUGMENT))


@pytest.mark.slow
@pytest.mark.parametrize("step", [pytest.param(4, marks=SLOW), 5, pytest.param(9, marks=SLOW)])
def test_resume_is_exact_with_all_options(root: Path, uninterrupted: Any, step: int) -> None:
    kill_and_resume(root, EVERYTHING, [f"step={step}"], resume=["--data.num_workers", "0"])
    assert_same_end(root, uninterrupted(EVERYTHING))


@pytest.mark.slow
def test_ctrl_c_saves_step(root: Path, uninterrupted: Any, capfd: pytest.CaptureFixture[str]) -> None:
    kill = ["--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=12", "--trainer.callbacks.where=interrupt"]
    fit = [*FIT, *AUGMENT, "--checkpoint.every_n_steps", "0", "--trainer.default_root_dir", str(root)]
    with pytest.raises(SystemExit):
        main([*fit, *kill])
    path = root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    assert f"Stopped at step 13. Continue with: lit-cv fit --ckpt_path {path}" in capfd.readouterr().err
    assert final(root)["global_step"] == 13
    main([*fit, "--ckpt_path", "last"])
    assert_same_end(root, uninterrupted(AUGMENT))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kill"),
    [
        ([], ["step=9", "where=validation"]),  # after the last step of an epoch of 9 steps, which wrote a checkpoint
        ([], ["step=27", "where=validation"]),  # after the last step of the run
        ([], ["step=8", "where=interrupt"]),
        (["--trainer.val_check_interval", "3"], ["step=3", "where=validation"]),
        (["--trainer.val_check_interval", "3"], ["step=9", "where=validation"]),
        (["--trainer.val_check_interval", "3"], ["step=5", "where=interrupt"]),
        (["--trainer.check_val_every_n_epoch", "2"], ["step=9"]),
        (["--trainer.check_val_every_n_epoch", "2"], ["step=8", "where=interrupt"]),
    ],
)
def test_resume_runs_due_validation(root: Path, uninterrupted: Any, options: list[str], kill: list[str]) -> None:
    options = [*AUGMENT, "--checkpoint.every_n_steps", "3", *options]
    killer = ["--trainer.callbacks+=killer.Kill", *(f"--trainer.callbacks.{option}" for option in kill)]
    args = [*FIT, *options, "--trainer.default_root_dir", str(root)]
    if "where=interrupt" in kill:
        with pytest.raises(SystemExit):
            main([*args, *killer])
    else:
        run_until_killed([*args, *killer])
    main([*args, "--ckpt_path", "last"])
    assert_same_end(root, uninterrupted(options))
    best = [
        torch.load(path, weights_only=True)["global_step"]
        for path in (
            folder / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt"
            for folder in (root, uninterrupted(options))
        )
    ]
    assert best[0] == best[1]


@pytest.mark.slow
def test_resume_is_exact_after_two_kills(root: Path, uninterrupted: Any) -> None:
    fit = [*FIT, *AUGMENT, "--trainer.default_root_dir", str(root)]
    kill = [*fit, "--trainer.callbacks+=killer.Kill"]
    run_until_killed([*kill, "--trainer.callbacks.step=5"])
    run_until_killed([*kill, "--trainer.callbacks.step=13", "--ckpt_path", "last"])
    main([*fit, "--ckpt_path", "last"])
    assert_same_end(root, uninterrupted(AUGMENT))


@pytest.mark.slow
def test_resume_is_exact_after_sigkill(root: Path, uninterrupted: Any) -> None:
    args = [*FIT, *AUGMENT, "--data.num_workers", "2"]
    kill = ["--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=13", "--trainer.callbacks.real=true"]
    (dead,) = run_program([*args, *kill], root)
    assert dead.returncode == -9, dead.stderr
    (again,) = run_program([*args, "--ckpt_path", "last"], root)
    assert again.returncode == 0, again.stderr
    assert_same_end(root, uninterrupted(AUGMENT))


@pytest.mark.slow
def test_new_learning_rate_wins_on_resume(root: Path) -> None:
    kill_and_resume(root, ["--model.schedule", "constant"], ["step=12"], resume=["--model.lr", "0.0123"])
    rows = read_metrics(root / "lightning_logs" / "version_0" / "metrics.csv")
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    assert all(rate == pytest.approx(0.0123 if step >= 12 else 1e-3) for step, rate in rates.items())
    assert max(rates) > 12


@pytest.mark.parametrize("steps", [12, pytest.param(18, marks=SLOW)])
@pytest.mark.slow
def test_run_bounded_by_steps_can_be_extended(root: Path, uninterrupted: Any, steps: int) -> None:
    """Bounded in the middle of an epoch of 9 steps, and at its end."""
    constant = ["--model.schedule", "constant"]
    options = [*FIT, *constant, "--trainer.default_root_dir", str(root)]
    main([*options, "--trainer.max_steps", str(steps)])
    main([*options, "--trainer.max_steps", "-1", "--ckpt_path", "last"])
    a, b = final(root), final(uninterrupted(constant))
    assert a["global_step"] == b["global_step"] == 27
    for key in ("state_dict", "optimizer_states"):
        assert_same(a[key], b[key], key)


@pytest.mark.slow
def test_refused_resume_keeps_configuration(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = ["--trainer.default_root_dir", str(root)]
    run_until_killed([*FIT, *args, "--trainer.callbacks+=killer.Kill", "--trainer.callbacks.step=5"])
    before = (root / "lightning_logs" / "version_0" / "config.yaml").read_text()
    capfd.readouterr()
    with pytest.raises((SystemExit, ValueError), match="batch_size=32, but this run has batch_size=16"):
        main([*FIT, *args, "--data.batch_size", "16", "--ema.decay", "0.9", "--ckpt_path", "last"])
    assert (root / "lightning_logs" / "version_0" / "config.yaml").read_text() == before
    assert "before the first checkpoint" not in capfd.readouterr().err
