"""A figure of the training curves of several tasks, drawn from a run's `metrics.csv`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lit_cv.figures.canvas import PALETTE, literal_text, new_figure, render, save_png
from lit_cv.figures.curves import add_heading, finish_axes, plot_series
from lit_cv.figures.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_task_curves"]

_LOG_FROM = 20.0  # ratio of the largest to the smallest value above which an axis is logarithmic


def draw_task_curves(
    csv_path: str | Path, png_path: str | Path, scores: Mapping[str, str | None], heading: str = ""
) -> History:
    """Draw the unweighted losses, the metrics and the weights of tasks, with one color per task.

    Args:
        csv_path: The `metrics.csv` of the run.
        png_path: The figure to write.
        scores: The main metric of each task, if any.
        heading: Title of the figure.

    Returns:
        The metrics of the run.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    history = History.read(csv_path)
    save_png(render(_task_figure(history, scores, heading)), png_path)
    return history


@literal_text
def _task_figure(history: History, scores: Mapping[str, str | None], heading: str) -> "Figure":
    colors = dict(zip(scores, (PALETTE[i % len(PALETTE)] for i in range(len(scores))), strict=True))
    panels: list[Callable[[Axes], None]] = [lambda axes: _losses(axes, history, colors)]
    metrics = {task: f"val_{task}_{name}" for task, name in scores.items() if name}
    if any(name in history.names for name in metrics.values()):
        panels.append(lambda axes: _lines(axes, history, colors, metrics, "metric of each task, validation"))
    for kind, title in (("weight", "weight of each loss"), ("sigma", "sigma: the noise of each task")):
        names = {task: f"{kind}_{task}" for task in scores}
        if any(name in history.names for name in names.values()):
            panels.append(lambda axes, names=names, title=title: _lines(axes, history, colors, names, title))  # type: ignore[misc]
    figure = new_figure(4.2 * 2, 3.5 * -(-len(panels) // 2) + (0.4 if heading else 0.1), constrained=True)
    add_heading(figure, heading)
    for place, panel in enumerate(panels, 1):
        panel(figure.add_subplot(-(-len(panels) // 2), 2, place))
    return figure


def _losses(axes: "Axes", history: History, colors: Mapping[str, str]) -> None:
    values = []
    for task, color in colors.items():
        for stage, style, label in (("train", "-", task), ("val", "--", "_")):
            name = f"{stage}_{task}_loss"
            plot_series(axes, history, name, color, label, marker="o", markersize=3, linestyle=style)
            values.append(history.series(name)[1])
    _scale(axes, np.concatenate(values))
    finish_axes(axes, "unweighted loss of each task (dashed: validation)", history.unit)


def _lines(axes: "Axes", history: History, colors: Mapping[str, str], names: Mapping[str, str], title: str) -> None:
    for task, name in names.items():
        plot_series(axes, history, name, colors[task], name.removeprefix("val_"), marker="o", markersize=3)
    if not title.startswith("metric"):
        _scale(axes, np.concatenate([history.series(name)[1] for name in names.values()]))
    finish_axes(axes, title, history.unit)


def _scale(axes: "Axes", values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    if len(values) and values.min() > 0 and values.max() > _LOG_FROM * values.min():
        axes.set_yscale("log")
