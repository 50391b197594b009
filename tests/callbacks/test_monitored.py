"""Direction of metrics: whether smaller or greater values are better."""

from pathlib import Path

import lightning as L
import pytest

from lit_cv.callbacks import MonitorEarlyStopping, RunCheckpoint
from lit_cv.callbacks.monitored import mode_of
from tests.callbacks.test_run_checkpoint import epoch_of
from tests.callbacks.tiny import Tiny, loader, trainer


class Accurate(L.LightningModule):
    monitor, mode = "val_acc", "max"


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val_acc", "max"), ("val_loss", "min"), ("val_shape_loss", "min"), ("val_5w1s_acc", "max"), ("val_ece", "min"),
     ("train_loss_step", "min"), ("val_ap50_cat", "max"), ("val_iou_glossy_map", "max"), ("val_top5", "max")],
)  # fmt: skip
def test_mode_is_inferred_from_name(monitor: str, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    assert mode_of(monitor, Accurate(), RunCheckpoint) == mode
    assert not caplog.records


def test_warning_for_inconclusive_name(caplog: pytest.LogCaptureFixture) -> None:
    assert mode_of("val_wobble", Accurate(), RunCheckpoint) == "max"
    assert "val_wobble: assuming that greater values are better. Set `mode` to min or max" in caplog.text


def test_mode_of_another_metric(tmp_path: Path) -> None:
    class Losing(Tiny):  # the module's own mode is max
        def validation_step(self, batch: object, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("val_error", self.trainer.current_epoch % 3)

    checkpoint = RunCheckpoint(monitor="val_error")
    stop = MonitorEarlyStopping(patience=2)
    run = trainer(tmp_path, max_epochs=9, callbacks=[stop, checkpoint])
    run.fit(Losing([0.1] * 9), loader(), loader())
    assert (checkpoint.mode, stop.mode, run.current_epoch) == ("min", "min", 3)
    assert epoch_of(tmp_path / "checkpoints" / "best.ckpt") == 0
    stop = MonitorEarlyStopping(patience=2, monitor="val_error")
    run = trainer(tmp_path / "own", max_epochs=9, callbacks=[stop, RunCheckpoint()])
    run.fit(Losing([0.1] * 9), loader(), loader())
    assert (stop.mode, run.current_epoch) == ("min", 3)


def test_warning_for_early_stopping_without_patience(caplog: pytest.LogCaptureFixture) -> None:
    assert not MonitorEarlyStopping(monitor="val_acc").enabled
    assert "have no effect without `patience`" in caplog.text
