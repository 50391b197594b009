from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lit_cv.figures.task_curves as figure_module
from lit_cv.callbacks import TaskCurves
from lit_cv.cli import main
from lit_cv.figures import draw_task_curves
from lit_cv.metrics_table import read_metrics
from tests.callbacks.classifier import Data, Oracle, run_trainer, train_batches

pytestmark = pytest.mark.draws

HEADER = "epoch,step,train_a_loss,train_b_loss,val_a_loss,val_a_acc,weight_a,weight_b,sigma_a\n"
ROWS = "0,0,,,,,1.0,1.0,1.0\n0,1,2.0,-300.0,2.5,0.5,0.4,2e3,0.7\n1,3,1.0,-400.0,2.4,0.6,0.2,3e3,0.6\n"


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    figures: list[Any] = []
    draw = figure_module.render

    def spy(figure: Any) -> Any:
        figures.append(figure)
        return draw(figure)

    monkeypatch.setattr(figure_module, "render", spy)
    return figures


def test_panels(tmp_path: Path, panels: list[Any]) -> None:
    (tmp_path / "metrics.csv").write_text(HEADER + ROWS)
    draw_task_curves(tmp_path / "metrics.csv", tmp_path / "out.png", {"a": "acc", "b": None}, "two tasks")
    losses, metrics, weights, sigmas = panels[0].axes
    assert len(losses.lines) == 3  # two for training, one for validation
    assert [line.get_ydata().tolist() for line in losses.lines] == [[2, 1], [2.5, 2.4], [-300, -400]]
    assert losses.get_yscale() == "linear"  # there are negative losses
    assert (weights.get_yscale(), metrics.get_yscale()) == ("log", "linear")
    assert [line.get_ydata().tolist() for line in sigmas.lines] == [[1.0, 0.7, 0.6]]
    with Image.open(tmp_path / "out.png") as figure:
        assert figure.size[0] > 900


def test_no_figure_for_other_modules(tmp_path: Path) -> None:
    run_trainer(tmp_path / "run", [TaskCurves()]).fit(Oracle(), datamodule=Data(train_batches()))
    assert not (tmp_path / "run" / "task_curves.png").exists()


@pytest.mark.slow
def test_recipe_writes_figures_and_predictions(in_tmp: Path) -> None:
    short = ["--data.num_images", "60", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    main(["fit", "--config", "multi_task", *short, "--trainer.max_epochs", "1"])
    run = in_tmp / "lightning_logs" / "version_0"
    names = {name for row in read_metrics(run / "metrics.csv") for name in row}
    for name in ("shape", "objects", "pixels"):
        assert {f"train_{name}_loss", f"val_{name}_loss", f"weight_{name}", f"sigma_{name}"} <= names
    for name in ("task_curves.png", "predictions.png", "confusion_matrix.png", "training_curves.png"):
        assert (run / name).is_file()
    main(["predict", "--ckpt_path", "best", "--trainer.enable_progress_bar", "false"])
    (table,) = run.glob("predictions*.csv")
    assert len(table.read_text().splitlines()) == 7  # header and one line per test image
    assert len(list((run / "predictions").glob("**/*.png"))) == 6  # the masks
