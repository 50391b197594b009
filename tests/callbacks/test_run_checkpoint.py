import math
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_cv.callbacks import EMA, LearningRateLog, MonitorEarlyStopping, RunCheckpoint, end_signals
from lit_cv.metrics_csv import MetricsCSVLogger
from lit_cv.metrics_table import read_metrics
from tests.callbacks.tiny import Tiny, loader, trainer


def epoch_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["epoch"])


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [("max", [0.1, 0.5, 0.5, 0.2], 2), ("min", [3.0, 1.0, 2.0, 1.5], 1), ("max", [math.nan, 0.3, math.nan], 1)],
)
def test_best_and_last(tmp_path: Path, mode: str, scores: list[float], best: int) -> None:
    module, checkpoint = Tiny(scores), RunCheckpoint(mode=mode)
    trainer(tmp_path, max_epochs=len(scores), callbacks=[checkpoint]).fit(module, loader(), loader())
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert epoch_of(folder / "best.ckpt") == best
    assert epoch_of(folder / "last.ckpt") == len(scores) - 1
    assert checkpoint.best_model_score == pytest.approx(scores[best])


def test_newest_is_best_without_validation(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=3, callbacks=[RunCheckpoint()]).fit(Tiny(), loader())
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == 2


def test_validation_at_other_times_than_epoch_ends(tmp_path: Path) -> None:
    run = trainer(tmp_path / "a", max_epochs=4, callbacks=[RunCheckpoint()], check_val_every_n_epoch=2)
    run.fit(Tiny([0.0, 0.5, 0.0, 0.4]), loader(), loader())
    assert epoch_of(tmp_path / "a" / "checkpoints" / "best.ckpt") == 1
    run = trainer(tmp_path / "b", max_epochs=1, callbacks=[RunCheckpoint()], val_check_interval=0.5)
    run.fit(Tiny([0.5]), loader(), loader())
    assert torch.load(tmp_path / "b" / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 4


def test_error_suggests_nearest_metric(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=1, callbacks=[RunCheckpoint(monitor="val_scor")])
    with pytest.raises(ValueError, match="no metric 'val_scor' was logged: did you mean 'val_score'"):
        run.fit(Tiny([0.1]), loader(), loader())


def test_resume_keeps_best(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=2, callbacks=[RunCheckpoint()]).fit(Tiny([0.9, 0.1]), loader(), loader())
    checkpoint = RunCheckpoint()
    last = tmp_path / "checkpoints" / "last.ckpt"
    run = trainer(tmp_path, max_epochs=4, callbacks=[checkpoint])
    run.fit(Tiny([0.9, 0.1, 0.5, 0.5]), loader(), loader(), ckpt_path=last)
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == 0
    assert checkpoint.best_model_score == pytest.approx(0.9)


class Interrupt(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_current_step(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = trainer(tmp_path, max_epochs=9, callbacks=[Interrupt(5), RunCheckpoint()])
    with pytest.raises(SystemExit):
        run.fit(Tiny([0.1]), loader(), loader())
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6
    assert signal.getsignal(signal.SIGINT) is before


def test_early_stopping_uses_module_metric_and_own_patience(tmp_path: Path) -> None:
    scores = [0.1, 0.5, 0.4, 0.5005, 0.3, 0.2]
    run = trainer(tmp_path, max_epochs=6, callbacks=[MonitorEarlyStopping(patience=2, min_delta=0.01)])
    run.fit(Tiny(scores), loader(), loader())
    assert run.current_epoch == 4  # epochs 2 and 3 did not improve by 0.01
    restored = MonitorEarlyStopping(patience=7)
    restored.load_state_dict(run.early_stopping_callback.state_dict())  # type: ignore[union-attr]
    assert restored.patience == 7


def test_metric_set_by_the_data(tmp_path: Path) -> None:
    class Late(Tiny):
        monitor, mode = "val_other", "min"

        def configure_model(self) -> None:
            self.monitor, self.mode = "val_score", "max"

    stop, checkpoint = MonitorEarlyStopping(patience=2), RunCheckpoint()
    run = trainer(tmp_path, max_epochs=9, callbacks=[stop, checkpoint])
    run.fit(Late([0.1, 0.5, 0.4, 0.3, 0.9]), loader(), loader())
    assert run.current_epoch == 4
    assert (checkpoint.monitor, checkpoint.mode) == ("val_score", "max")
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == 1


def test_early_stopping_with_falling_loss(tmp_path: Path) -> None:
    stop = MonitorEarlyStopping(patience=1, mode="min")
    run = trainer(tmp_path, max_epochs=6, callbacks=[stop])
    run.fit(Tiny([3.0, 2.0, 1.0, 1.5]), loader(), loader())
    assert run.current_epoch == 4


def test_ema_formula_and_validation(tmp_path: Path) -> None:
    module, ema = Tiny([0.1, 0.2]), EMA(decay=0.6)
    average = module.layer.weight.detach().clone()
    trainer(tmp_path, max_epochs=2, callbacks=[ema, RunCheckpoint()]).fit(module, loader(), loader())
    averages = []
    for step, weight in enumerate(module.weights, 1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        averages.append(average)
    torch.testing.assert_close(module.validated[0], averages[3])  # at the end of the first epoch of four steps
    torch.testing.assert_close(module.layer.weight.detach(), averages[-1])
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"]["layer.weight"], averages[-1])
    torch.testing.assert_close(saved["ema"]["weights"]["layer.weight"], module.weights[-1])
    assert int(module.norm.num_batches_tracked) == 8


def test_ema_copies_state_that_is_no_weight(tmp_path: Path) -> None:
    class Counting(Tiny):
        def __init__(self) -> None:
            super().__init__([0.1, 0.2])
            self.register_buffer("newest", torch.zeros(()))

        def training_step(self, *args: Any) -> Any:
            self.newest += 1.0
            return super().training_step(*args)

    module = Counting()
    trainer(tmp_path, max_epochs=1, callbacks=[EMA(decay=0.9), RunCheckpoint()]).fit(module, loader(), loader())
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["state_dict"]["newest"] == saved["ema"]["weights"]["newest"] == 4.0
    assert not torch.equal(
        *(weights["norm.running_mean"] for weights in (saved["state_dict"], saved["ema"]["weights"]))
    )


def test_logged_lr_is_that_of_the_step(tmp_path: Path) -> None:
    class Decaying(Tiny):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(
                [{"params": self.layer.parameters(), "name": "layer"}, {"params": self.norm.parameters(), "lr": 7.0}],
                lr=1.0,
            )
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    logger = MetricsCSVLogger(str(tmp_path))
    trainer(tmp_path, max_epochs=1, callbacks=[LearningRateLog()], logger=logger).fit(Decaying(), loader())
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["lr"] for row in rows] == [1.0, 0.5, 0.25, 0.125]
    assert [row["lr_1"] for row in rows] == [7.0, 3.5, 1.75, 0.875]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EMA(decay=1.5), "decay=1.5"),
        (lambda: RunCheckpoint(every_n_steps=-1), "every_n_steps=-1"),
        (lambda: RunCheckpoint(mode="best"), "mode='best'"),
        (lambda: MonitorEarlyStopping(patience=0), "patience=0"),
        (lambda: LearningRateLog(per_epoch=0), "per_epoch=0"),
    ],
)
def test_error_names_argument(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


class Terminate(Interrupt):
    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class TerminateInValidation(Interrupt):
    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and args[2] == 0:
            os.kill(os.getpid(), signal.SIGTERM)


class TerminateTwice(Terminate):
    """Like `timeout`, which signals its child and then the group, and like launchers that forward signals."""

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step + 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("killer", "step", "saved"), [(Terminate, 5, 6), (TerminateTwice, 5, 6), (TerminateInValidation, 8, 8)]
)
def test_sigterm_saves_current_step(tmp_path: Path, killer: Any, step: int, saved: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run = trainer(tmp_path, max_epochs=9, callbacks=[killer(step), RunCheckpoint()])
    with pytest.raises(SystemExit) as stopped:
        run.fit(Tiny([0.1]), loader(), loader())
    assert stopped.value.code == 143  # not 0, which a scheduler would treat as success
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == saved
    assert signal.getsignal(signal.SIGTERM) == before


class Fail(L.Callback):
    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        raise ArithmeticError


@pytest.mark.parametrize("fails", [False, True])
def test_signal_handlers_are_restored(tmp_path: Path, fails: bool) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    run = trainer(tmp_path, max_epochs=1, callbacks=[RunCheckpoint(), *([Fail()] if fails else [])])
    with pytest.raises(ArithmeticError) if fails else nullcontext():
        run.fit(Tiny([0.1]), loader(), loader())
    assert {number: signal.getsignal(number) for number in before} == before


def test_second_signal_ends_immediately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_signals, "_REPEAT_SECONDS", 0.0)
    run = trainer(tmp_path, max_epochs=9, callbacks=[TerminateTwice(5), RunCheckpoint()])
    with pytest.raises(SystemExit):
        run.fit(Tiny([0.1]), loader(), loader())
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize(
    "first", ["/node0/logs/version_3/checkpoints/last.ckpt", "/node0/version_4/checkpoints/last.ckpt"]
)
def test_error_for_ranks_with_different_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    run = trainer(tmp_path, callbacks=[])
    run.ckpt_path = "/node1/logs/version_3/checkpoints/last.ckpt"
    others = Path(first).parts[-3:]
    monkeypatch.setattr(run.strategy, "broadcast", lambda value: others if isinstance(value, tuple) else value)
    if "version_3" in first:
        RunCheckpoint().setup(run, Tiny(), "fit")
        return
    with pytest.raises(ValueError, match="Set the file with `ckpt_path`"):
        RunCheckpoint().setup(run, Tiny(), "fit")


def test_logs_are_written_before_checkpoint_and_validation(tmp_path: Path) -> None:
    seen: list[tuple[str, int, list[int]]] = []

    class Look(L.Callback):
        def look(self, what: str, run: L.Trainer) -> None:
            rows = read_metrics(tmp_path / "metrics.csv")
            seen.append((what, run.global_step, [int(row["step"]) for row in rows if "lr" in row]))

        def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
            self.look("checkpoint", trainer)

        def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
            self.look("validation", trainer)

    callbacks = [LearningRateLog(), RunCheckpoint(every_n_steps=2), Look()]
    logger = MetricsCSVLogger(str(tmp_path))
    run = trainer(
        tmp_path, max_epochs=2, callbacks=callbacks, logger=logger, log_every_n_steps=1, num_sanity_val_steps=0
    )
    run.fit(Tiny([0.1, 0.2]), loader(), loader())
    assert {what for what, *_ in seen} == {"checkpoint", "validation"}
    for what, step, rows in seen:
        # the values of a step are logged just after its checkpoint
        assert rows[: step - 1] == list(range(step - 1)), (what, step)
        assert what == "checkpoint" or rows == list(range(step)), (what, step)
