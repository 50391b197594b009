"""Figures, metrics files and exports with hostile names, files and links."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import rc_context, rcParams
from matplotlib.text import Text

from lit_cv import SupervisedModule
from lit_cv.cli import main
from lit_cv.figures import (
    DomainMap,
    History,
    confusion_figure,
    domain_figure,
    draw_objects,
    draw_task_curves,
    draw_training_curves,
    image_grid,
    lr_curve_figure,
    precision_recall_figure,
    render,
    save_png,
    short_name,
)
from lit_cv.figures.comparison import Cell, Measured, compute_figure, cost_figure, labels_figure, overview_figure
from lit_cv.figures.kfold import kfold_figure
from lit_cv.figures.overlay import overlay_figure
from lit_cv.metrics_csv import MetricsCSVLogger
from lit_cv.metrics_table import read_metrics
from lit_cv.running.export import ExportedModule, export_program, export_weights
from lit_cv.running.tensorboard_log import RunTensorBoardLogger

pytestmark = [pytest.mark.draws, pytest.mark.slow]

NAMES = ["$\\frac{", "a $x_$ b", "_private", "a\x1b[2J\udcffz", "w" * 5000, "two\nlines"]
COUNTS = torch.eye(len(NAMES), dtype=torch.int64) * 3
HISTORY = History([{"epoch": e, "step": 9 + 10 * e, NAMES[0]: e / 9, "val_loss": 10.0 ** (3 * e)} for e in range(3)])
CELLS = tuple(Cell(str(n), n, 2 * n, (0.1 * k, 0.2 * k + 0.1), 1.0, 2.0) for k, n in enumerate((10, 100)))
MEASURED = [Measured(name, name, CELLS) for name in NAMES]
MAP = DomainMap(NAMES[0], np.random.default_rng(0).normal(size=(12, 2)), np.arange(12) % 2, np.arange(12) % len(NAMES))

FIGURES: dict[str, Callable[[], Any]] = {
    "confusion": lambda: confusion_figure(COUNTS, NAMES, NAMES[0]),
    "precision and recall": lambda: precision_recall_figure(torch.ones(3, len(NAMES)), NAMES, NAMES[0]),
    "kfold": lambda: kfold_figure({NAMES[0]: [0.1, 0.2], NAMES[3]: [0.5, 0.6]}, COUNTS, NAMES, NAMES[1]),
    "domains": lambda: domain_figure([MAP], NAMES, NAMES[0]),
    "images": lambda: image_grid(torch.zeros(len(NAMES), 3, 8, 8), [short_name(n) for n in NAMES], " ".join(NAMES)),
    "overlay": lambda: overlay_figure(dict.fromkeys(NAMES, HISTORY), [NAMES[0], "val_loss"]),
    "overview": lambda: overview_figure(MEASURED, NAMES[0]),
    "labels": lambda: labels_figure(MEASURED, NAMES[0]),
    "compute": lambda: compute_figure(MEASURED, NAMES[0]),
    "cost": lambda: cost_figure(MEASURED, NAMES[0], 0.5),
    "learning rate": lambda: lr_curve_figure(np.logspace(-5, 0, 20).tolist(), np.linspace(2, 1, 20).tolist(), 1e-3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "overview" else []) for name in FIGURES]
)
def test_figures_show_names_literally(name: str) -> None:
    figure = FIGURES[name]()
    for text in figure.findobj(Text):
        if "mathdefault" not in text.get_text():  # the numbers of log axes
            assert not text.get_parse_math() or "$" not in text.get_text(), text
        assert "\x1b" not in text.get_text()
    assert render(figure).std() > 1


@pytest.mark.slow
def test_run_curves_show_names_literally(tmp_path: Path) -> None:
    metrics = [f"val_{name}" for name in NAMES]
    with open(tmp_path / "metrics.csv", "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "lr_$\\frac{", "train_loss", *metrics])
        writer.writerows([e, e, 10.0**-e, 1.0, *([0.5] * len(metrics))] for e in range(4))
    facts = {"$\\frac{": "a\udcff"}
    draw_training_curves(tmp_path / "metrics.csv", tmp_path / "a.png", metrics[0], "max", facts, NAMES[0])
    draw_task_curves(tmp_path / "metrics.csv", tmp_path / "b.png", {"$\\frac{": "acc", "_x": None}, NAMES[3])
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".png"}


def test_box_names_are_drawn(tmp_path: Path) -> None:
    boxes, labels = [torch.tensor([[1.0, 1, 30, 30]] * len(NAMES))], [torch.arange(len(NAMES))]
    assert draw_objects(torch.zeros(1, 3, 48, 48), boxes, labels, box_classes=NAMES).any()


def test_log_axis_labels_use_mathtext() -> None:
    axis = lr_curve_figure([1e-5, 1e-2], [2.0, 1.0], None).axes[0].xaxis
    axis.figure.canvas.draw()
    assert any("mathdefault" in label.get_text() and label.get_parse_math() for label in axis.get_ticklabels())


def test_rcparams_change_no_figure() -> None:
    expected = render(FIGURES["confusion"]())
    with rc_context({"text.usetex": True, "font.size": 30, "lines.linewidth": 9, "savefig.dpi": 5}):
        assert (render(FIGURES["confusion"]()) == expected).all()
        assert rcParams["text.usetex"]  # unchanged for other figures


CURVES = "from lit_cv.cli import main; main(['curves', 'metrics.csv'])"


@pytest.mark.slow
def test_planted_matplotlibrc_is_not_read(in_tmp: Path) -> None:
    planted = {"a": b"backend: module://evil\ntext.usetex: True\nlines.linewidth: 9\nnonsense\n", "b": b"\xff\xfe"}
    started = []
    for name, content in {".": None, **planted}.items():
        (in_tmp / name).mkdir(exist_ok=True)
        (in_tmp / name / "metrics.csv").write_text("epoch,step,train_loss\n0,9,0.5\n1,19,0.4\n")
        (in_tmp / name / "evil.py").write_text("open('ran', 'w')")
        if content is not None:
            (in_tmp / name / "matplotlibrc").write_bytes(content)
            started.append(
                subprocess.Popen([sys.executable, "-c", CURVES], cwd=name, stderr=subprocess.PIPE, text=True)
            )
    main(["curves", "metrics.csv"])
    for process in started:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    figures = {(in_tmp / name / "curves.png").read_bytes() for name in (".", *planted)}
    assert len(figures) == 1
    assert not (in_tmp / "a" / "ran").exists()


def test_users_matplotlibrc_is_read(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("lines.linewidth: 7\n")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\n")
    code = (
        "from lit_cv.figures.matplotlib_defaults import import_matplotlib as i; i(); import matplotlib, os;"
        "print(matplotlib.rcParams['lines.linewidth'], os.listdir())"
    )
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path / "own")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("7.0 [")
    assert "matplotlibrc" in done.stdout  # the working directory is unchanged


@pytest.mark.parametrize("values", [[0.1, float("nan")], [float("inf"), -float("inf")], [1e308, -1e308]])
def test_figures_of_non_finite_values(values: list[float]) -> None:
    title = kfold_figure({"val_acc": values, "none": []}).axes[0].get_title("left")
    assert "not finite in" in title
    render(kfold_figure({"val_acc": values}))
    history = History([{"epoch": 0, "step": k, "val_acc": value} for k, value in enumerate(values)])
    render(overlay_figure({"a": history}))


@pytest.mark.slow
def test_outputs_are_not_written_through_links(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    module = SupervisedModule(backbone="conv4", num_classes=2, in_channels=1, image_size=8)
    names = ("a.png", "m.safetensors", ".m.safetensors.part", "m.pt2", ".m.pt2.part.pt2", "metrics.csv", "hparams.yaml")
    for name in names:
        (tmp_path / name).symlink_to(target)
    save_png(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.png")
    export_weights(module, tmp_path / "m.safetensors")
    export_program(ExportedModule(module), tmp_path / "m.pt2")
    table = MetricsCSVLogger(str(tmp_path))
    table.log_metrics({"loss": 1.0}, 0)
    table.save()
    board = RunTensorBoardLogger(tmp_path.parent, name="", version=tmp_path.name)
    board.log_hyperparams({"lr": 0.1})
    board.save()
    board.finalize("success")
    assert target.read_text() == "mine"
    assert [name for name in names if (tmp_path / name).is_symlink()] == [".m.safetensors.part", ".m.pt2.part.pt2"]
    assert "lr: 0.1" in (tmp_path / "hparams.yaml").read_text()


def test_metrics_are_not_appended_through_link(tmp_path: Path) -> None:
    logger, target = MetricsCSVLogger(str(tmp_path / "run")), tmp_path / "target"
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    target.write_text("mine")
    (tmp_path / "run" / "metrics.csv").unlink()
    (tmp_path / "run" / "metrics.csv").symlink_to(target)
    logger.log_metrics({"loss": 1.0}, 1)
    with pytest.raises(
        OSError, match=r"metrics\.csv is a link \(symbolic or hard\), and lit_cv does not write through links"
    ):
        logger.save()
    assert target.read_text() == "mine"


CELLS_WRONG = {
    "abc": ("0,1,abc", "line 2, column val_acc: 'abc' is not a number"),
    "step": (f"0,{'9' * 5000},1", "line 2, column step: '9999.*' is not an integer"),
    "step of text": ("0,²,1", "line 2, column step: '²' is not an integer|is not a number"),
    "epoch": ("1e999,1,1", "line 2, column epoch: '1e999' is not an integer"),
    "long": (f"0,1,{'1' * 200_000}", "not valid CSV: field larger than field limit"),
}


@pytest.mark.parametrize("name", CELLS_WRONG)
def test_invalid_cells_give_one_line_error(name: str, in_tmp: Path) -> None:
    row, message = CELLS_WRONG[name]
    (in_tmp / "metrics.csv").write_text(f"epoch,step,val_acc\n{row}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^\S*metrics\.csv, .*({message})") as error:
        main(["curves", "metrics.csv"])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    assert not (in_tmp / "curves.png").exists()


def test_invalid_metrics_files(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (in_tmp / "runs" / name).mkdir(parents=True)
    (in_tmp / "runs" / "a" / "metrics.csv").write_text("epoch,step,val_acc\n0,1,1e999\n0,2,0.5\n0,3,0.5e")  # cut off
    os.mkfifo(in_tmp / "runs" / "b" / "metrics.csv")
    with pytest.raises(OSError, match=r"b/metrics\.csv is not a regular file"):
        main(["curves", "runs"])
    (in_tmp / "runs" / "b" / "metrics.csv").unlink()
    (in_tmp / "runs" / "b" / "metrics.csv").write_bytes(b"epoch,step,\xff\n0,1,1\n")
    with pytest.raises(ValueError, match=r"b/metrics\.csv, line 1: not valid UTF-8"):
        main(["curves", "runs"])
    (in_tmp / "runs" / "b").rename(in_tmp / "b\x1b[2J")
    capsys.readouterr()
    main(["curves", "runs", "b\x1b[2J", "--dry_run"])
    assert "\\x1b[2J" in capsys.readouterr().out
    assert [row["val_acc"] for row in read_metrics(in_tmp / "runs" / "a" / "metrics.csv")] == [float("inf"), 0.5]
    main(["curves", "runs"])
