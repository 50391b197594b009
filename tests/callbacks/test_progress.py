import re
import time
from pathlib import Path
from typing import Any

import pytest
import rich
from lightning.pytorch.callbacks import Callback

from lit_cv.callbacks import RunProgressBar
from lit_cv.notebooks import InlineText
from tests.callbacks.classifier import Batches, Data, Oracle, run_trainer, train_batches
from tests.callbacks.test_classification_figures import validation

LINE = re.compile(r"epoch (\d+)/(\d+)  train_loss (\S+)  val_acc (\S+)  [\d.]+ s(  best(?:, again)?)?$")


def lines(captured: str) -> list[tuple[str, ...]]:
    return [match.groups("") for match in map(LINE.match, captured.splitlines()) if match]


def fit(tmp_path: Path, scores: list[float], bar: RunProgressBar | None = None, **kwargs: Any) -> RunProgressBar:
    bar = bar or RunProgressBar()
    options = {"enable_progress_bar": True, "max_epochs": len(scores), **kwargs}
    trainer = run_trainer(tmp_path / "run", [bar], **options)
    trainer.fit(Oracle(scores=scores), datamodule=Data(train_batches(), validation()))
    return bar


def test_one_line_per_epoch_without_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = fit(tmp_path, [float("nan"), 0.5, 0.5, 0.125, 0.25])
    out = capsys.readouterr().out
    printed = lines(out)
    assert [line[0] for line in printed] == ["1", "2", "3", "4", "5"]
    assert [line[3] for line in printed] == ["nan", "0.5000", "0.5000", "0.1250", "0.2500"]
    assert [line[4] for line in printed] == ["", "  best", "  best, again", "", ""]
    assert printed[0][2] == "0.1708"  # mean of the losses 0.5^2, 0.4^2 and 0.32^2
    assert bar.progress is None
    assert "v_num" not in out
    assert "━" not in out


def test_mode_min(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Oracle, "mode", "min")
    fit(tmp_path, [0.5, 0.75, 0.25])
    assert [bool(line[4]) for line in lines(capsys.readouterr().out)] == [True, False, True]


def test_displayed_metric_without_monitor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Oracle, "monitor", None)
    monkeypatch.setattr(Oracle, "displayed", "val_acc", raising=False)
    fit(tmp_path, [0.5, 0.75])
    assert [line[3:] for line in lines(capsys.readouterr().out)] == [("0.5000", ""), ("0.7500", "")]


def test_best_value_survives_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = fit(tmp_path, [0.5])
    second = RunProgressBar()
    second.load_state_dict(first.state_dict())
    fit(tmp_path, [0.4], second)
    assert [bool(line[4]) for line in lines(capsys.readouterr().out)] == [True, False]


def test_checkpoint_has_best_value_of_its_epoch(tmp_path: Path) -> None:
    held: list[float | None] = []

    class Saver(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            held.append(bar.state_dict()["best"])

    bar = RunProgressBar()
    trainer = run_trainer(tmp_path / "run", [bar, Saver()], enable_progress_bar=True, max_epochs=2)
    trainer.fit(Oracle(scores=[0.25, 0.5]), datamodule=Data(train_batches(), validation()))
    assert held == [0.25, 0.5]


def test_no_metric_for_epochs_without_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, [0.5, 0.5, 0.5], check_val_every_n_epoch=2)
    out = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert ["val_acc" in line for line in out] == [False, True, False]


def test_disabled_bar_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = RunProgressBar()
    bar.disable()
    fit(tmp_path, [0.5], bar)
    assert "epoch" not in capsys.readouterr().out


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A terminal of 100 columns; returns what was written to it."""
    written: list[str] = []

    class Screen:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

        def flush(self) -> None:
            pass

        def isatty(self) -> bool:
            return True

    console = rich.console.Console(file=Screen(), force_terminal=True, width=100)  # type: ignore[arg-type]
    monkeypatch.setattr(rich, "_console", console)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(rich.console.Console, "is_dumb_terminal", property(lambda self: False))
    # Lightning recreates the console with the default output.
    monkeypatch.setattr("lightning.pytorch.callbacks.progress.rich_progress.reconfigure", lambda **kwargs: None)
    return written


def test_terminal_shows_transient_bar_and_permanent_lines(tmp_path: Path, terminal: list[str]) -> None:
    bar = fit(tmp_path, [0.25, 0.5])
    assert bar.progress is not None
    assert bar.progress.live.transient
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "".join(terminal))
    assert "loss: 0." in text
    assert "val_acc: 0.2500" in text
    assert "v_num" not in text
    stayed = [line for line in re.split(r"[\r\n]+", text) if LINE.match(line.strip())]
    assert len(stayed) == 2


def test_bar_is_refreshed_by_time(tmp_path: Path, terminal: list[str]) -> None:
    bar = RunProgressBar(refreshes_per_second=1)
    moves: list[int] = []
    update = bar._update
    bar._update = lambda task, current, *args: moves.append(current) or update(task, current, *args)  # type: ignore
    started = time.monotonic()
    trainer = run_trainer(tmp_path / "run", [bar], enable_progress_bar=True, max_epochs=1, logger=False)
    trainer.fit(Oracle(), Batches(*train_batches(60).batches))
    seconds = time.monotonic() - started
    assert moves[-1] == 60  # the bar is full at the end
    assert len(moves) <= 2 + seconds


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_bar_in_other_verbs(tmp_path: Path, terminal: list[str], verb: str) -> None:
    class All(Oracle):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            return self.validation_step(batch, batch_idx)["loss"]

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch["image"])

    bar = RunProgressBar()
    trainer = run_trainer(tmp_path / "run", [bar], enable_progress_bar=True, logger=False)
    getattr(trainer, verb)(All(), validation())
    assert "2/2" in "".join(terminal)
    assert not any("epoch" in text for text in terminal)


def test_error_names_argument() -> None:
    with pytest.raises(ValueError, match="refreshes_per_second=0"):
        RunProgressBar(refreshes_per_second=0)


def test_bar_of_notebook_is_replaced_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Cell(InlineText):
        def _display(self, content: dict[str, str]) -> None:
            self._handle = self
            shown.append(content["text/plain"])

    monkeypatch.setattr("lit_cv.callbacks.progress.in_notebook", lambda: True)
    monkeypatch.setattr("lit_cv.callbacks.progress.InlineText", Cell)
    monkeypatch.setattr(rich, "_console", rich.console.Console(force_jupyter=True))
    bar = RunProgressBar(refreshes_per_second=1)
    started = time.monotonic()
    fit(tmp_path, [0.25, 0.5], bar)
    assert len(shown) <= 2 + time.monotonic() - started  # not one for each step
    assert "━" in shown[0]
    assert shown[-1] == ""
    out = capsys.readouterr().out
    assert [line[3] for line in lines(out)] == ["0.2500", "0.5000"]
    assert "\x1b" not in "".join([out, *shown])
    assert "\n\n" not in out
