from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from lit_cv.callbacks import LearningRateLog, TrainingCurves
from lit_cv.figures import History, draw_training_curves
from lit_cv.figures import curves as curves_module
from lit_cv.metrics_csv import MetricsCSVLogger
from tests.callbacks.classifier import Data, Oracle, board, run_trainer, train_batches
from tests.callbacks.test_classification_figures import validation

pytestmark = pytest.mark.draws


def hparams(folder: Path) -> dict[str, Any]:
    """Hyperparameters as shown in TensorBoard's HParams tab."""
    tags = board(folder).summary_metadata
    content = tags[metadata.SESSION_START_INFO_TAG].plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert isinstance(start, plugin_data_pb2.SessionStartInfo)
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in start.hparams.items()}


def test_fit_writes_curves_and_hyperparameters(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = Oracle(scores=[0.25, 0.75, 0.5], nested={"a": {"b": None}, "c": [1, 2]})
    trainer = run_trainer(folder, [LearningRateLog(), TrainingCurves()], max_epochs=3)
    trainer.fit(model, datamodule=Data(train_batches(), validation()))
    with Image.open(folder / "training_curves.png") as figure:
        assert figure.size[0] > 1000
    events = board(folder)
    assert [e.value for e in events.Scalars("best_val_acc")] == [0.75]
    assert [e.value for e in events.Scalars("final_val_acc")] == [0.5]
    assert [e.value for e in events.Scalars("val_acc")] == [0.25, 0.75, 0.5]  # and no other values
    logged = hparams(folder)
    assert logged["lr"] == pytest.approx(0.1)
    assert logged["nested/a/b"] == "None"
    assert logged["nested/c"] == "[1, 2]"


@pytest.mark.slow
@pytest.mark.parametrize(("displayed", "best"), [("val_acc", 0.75), (None, "lowest loss")])
def test_best_value_without_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, displayed: str | None, best: object
) -> None:
    monkeypatch.setattr(Oracle, "monitor", None)
    monkeypatch.setattr(Oracle, "displayed", displayed, raising=False)
    trainer = run_trainer(tmp_path / "run", [TrainingCurves()], max_epochs=3)
    trainer.fit(Oracle(scores=[0.25, 0.75, 0.5]), datamodule=Data(train_batches(), validation()))
    events = board(tmp_path / "run")
    if displayed:
        assert [e.value for e in events.Scalars("best_val_acc")] == [best]
    else:
        losses = [e.value for e in events.Scalars("val_loss")]
        assert [e.value for e in events.Scalars("best_val_loss")] == [min(losses)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_figure_after_early_end(tmp_path: Path, error: type[BaseException]) -> None:
    folder = tmp_path / "run"
    model = Oracle(scores=[0.25])
    model.fail_at = (4, error)
    trainer = run_trainer(folder, [TrainingCurves()], max_epochs=3)
    with pytest.raises((RuntimeError, SystemExit)):
        trainer.fit(model, datamodule=Data(train_batches(), validation()))
    assert (folder / "training_curves.png").is_file()
    assert History.read(folder / "metrics.csv").steps == 4
    assert board(folder).Scalars("best_val_acc")[0].value == 0.25


def test_no_figure_without_logs(tmp_path: Path) -> None:
    model = Oracle()
    model.fail_at = (0, RuntimeError)
    with pytest.raises(RuntimeError, match="on purpose"):
        run_trainer(tmp_path / "a", [TrainingCurves()]).fit(model, train_batches())
    run_trainer(tmp_path / "b", [TrainingCurves()], fast_dev_run=True).fit(Oracle(), train_batches())
    run_trainer(tmp_path / "c", [TrainingCurves()], logger=False).fit(Oracle(), train_batches())
    assert not list(tmp_path.rglob("*.png"))


def test_time_accumulates_over_resume() -> None:
    curves = TrainingCurves()
    curves.load_state_dict({"seconds": 100.0})
    assert curves.state_dict()["seconds"] == 100.0


def write_table(folder: Path, rows: list[dict[str, float]]) -> Path:
    logger = MetricsCSVLogger(str(folder))
    for row in rows:
        logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
    logger.finalize("success")
    return folder / "metrics.csv"


def test_panels_show_logged_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, float]] = []
    for step in range(20):
        rows.append({"epoch": step // 5, "step": step, "lr": 10.0**-step, "train_loss_step": 2.0 - step / 20})
        if step % 5 == 4:
            acc = [0.6, 0.6, 0.4, 0.5][step // 5]
            rows[-1] |= {"train_loss": 1.0, "val_loss": 1.5, "val_acc": acc, "val_f1": 0.1, "train_x_loss": 0.3}
    figures: list[Any] = []
    render = curves_module.render
    monkeypatch.setattr(curves_module, "render", lambda figure: figures.append(figure) or render(figure))
    table = write_table(tmp_path, rows)
    history = draw_training_curves(table, tmp_path / "a" / "c.png", "val_acc", "max", {"time": "3 s"}, "a $ b")
    assert history.best("val_acc", "max") == (0.6, 2)
    assert (tmp_path / "a" / "c.png").is_file()
    panels = {axes.get_title(loc="left"): axes for axes in figures[0].axes}
    names = ["loss", "val_acc", "other validation metrics", "components of the loss", "learning rate", "summary"]
    assert list(panels) == names
    line, dots, star = panels["val_acc"].lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert list(dots.get_xdata()) == [2, 2]  # the later of two equal epochs
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([2], [0.6])
    rate = panels["learning rate"]
    assert rate.lines[0].get_xdata().tolist() == list(range(1, 21))
    assert rate.get_yscale() == "log"
    text = "\n".join(t.get_text() for t in panels["summary"].texts)
    assert "val_acc          0.6000     0.5000" in text
    assert "3 s" in text


@pytest.mark.parametrize(
    ("steps", "shown"), [([2.0, 1.0], ["train"]), ([2.0, 1.5, 1.0, 1.0], ["train, single steps", "train"])]
)
def test_steps_are_shown_unless_epochs_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[float], shown: list[str]
) -> None:
    rows = [{"epoch": 2 * k // len(steps), "step": k, "train_loss_step": loss} for k, loss in enumerate(steps)]
    rows[len(steps) // 2 - 1]["train_loss"], rows[-1]["train_loss"] = 2.0, 1.0
    figures: list[Any] = []
    render = curves_module.render
    monkeypatch.setattr(curves_module, "render", lambda figure: figures.append(figure) or render(figure))
    draw_training_curves(write_table(tmp_path, rows), tmp_path / "c.png")
    assert [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()] == shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        [{"epoch": 0, "step": 0, "train_loss_step": float("nan")}],
        [{"epoch": 0, "step": 3, "val_loss": 1.0}],
        [{"epoch": 0, "step": 0, "lr": 0.0}, {"epoch": 0, "step": 1, "lr": 0.0, "val_acc": float("inf")}],
    ],
    ids=["only NaN", "only validation", "zero rate and inf"],
)
def test_unusual_tables_are_drawn(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    draw_training_curves(write_table(tmp_path, rows), tmp_path / "c.png", "val_acc", "max")
    assert (tmp_path / "c.png").is_file()


def test_error_for_missing_and_empty_tables(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        draw_training_curves(tmp_path / "metrics.csv", tmp_path / "c.png")
    with pytest.raises(ValueError, match="has logged nothing"):
        draw_training_curves(write_table(tmp_path, []), tmp_path / "c.png")


def test_steps_to_epochs_of_different_lengths() -> None:
    rows = [{"epoch": 0, "step": 9, "train_loss": 1.0}, {"epoch": 1, "step": 29, "train_loss": 1.0}]
    rows[0]["train_loss_step"] = 0.9
    history = History([*rows, {"epoch": 2, "step": 34, "train_loss_step": 0.5, "val_acc": 0.5}])
    steps, values = history.series("val_acc")
    assert (steps.tolist(), values.tolist()) == ([35.0], [0.5])
    at = history.epochs_at(history.series("train_loss")[0])
    assert at is not None
    assert at.tolist() == [1.0, 2.0]
    beyond = history.epochs_at(steps)
    assert beyond is not None
    assert beyond.tolist() == [2.25]  # 5 of 20 steps
    assert (history.epochs, history.steps) == (2, 35)
    assert history.last("train_loss", epoch=1) == 1.0
    assert history.best("train_loss_step", "min") == (0.5, 3)
    assert history.last("val_acc", epoch=1) is None
