"""A figure of the training curves of a run, drawn from its `metrics.csv`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_cv.figures.canvas import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PALETTE,
    add_legend,
    legend_name,
    literal_text,
    new_figure,
    render,
    save_png,
    shorten_to_width,
    style_axes,
)
from lit_cv.figures.history import History, short_number
from lit_cv.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["add_heading", "draw_training_curves", "finish_axes", "plot_series"]

Numbers = NDArray[np.float64]

_SERIES = 8  # maximum number of lines in a panel
_POINTS = 1500  # approximate maximum number of points of a line


def draw_training_curves(
    csv_path: str | Path,
    png_path: str | Path,
    monitor: str = "val_loss",
    mode: Literal["min", "max"] = "min",
    facts: Mapping[str, str] | None = None,
    heading: str = "",
) -> History:
    """Draw losses, metrics, learning rate and a summary of a run.

    Args:
        csv_path: The `metrics.csv` of the run.
        png_path: The figure to write.
        monitor: Metric that determines the best epoch.
        mode: Whether smaller (`min`) or larger (`max`) values of it are better.
        facts: Additional lines of the summary, such as the duration.
        heading: Title of the figure.

    Returns:
        The metrics of the run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it contains no metrics.
    """
    history = History.read(csv_path)
    if not history.names:
        raise ValueError(f"{csv_path} contains no metrics: this run has logged nothing.")
    save_png(render(_training_figure(history, monitor, mode, facts or {}, heading)), png_path)
    return history


@literal_text
def _training_figure(history: History, monitor: str, mode: str, facts: Mapping[str, str], heading: str) -> "Figure":
    best = history.best(monitor, mode)
    panels: list[Callable[[Axes], None]] = [lambda axes: _losses(axes, history, monitor, mode)]
    if best and monitor != "val_loss":
        panels.append(lambda axes: _monitor(axes, history, monitor, mode))
    others = [n for n in history.names if n.startswith("val_") and n not in (monitor, "val_loss")]
    others = [n for n in others if not n.endswith("_ci95")]  # confidence intervals of metrics
    main = ("train_loss", "val_loss", monitor)
    losses = [name for name in history.names if name.endswith("_loss") and name not in main]
    metrics = [name for name in others if name not in losses]
    if metrics:
        panels.append(lambda axes: _several(axes, history, metrics, "other validation metrics"))
    if losses:
        panels.append(lambda axes: _several(axes, history, losses, "components of the loss"))
    rates = [name for name in history.names if name == "lr" or name.startswith(("lr_", "lr-"))]
    if "lr_head" in rates:  # the same as `lr`
        rates.remove("lr")
    if rates:
        panels.append(lambda axes: _learning_rate(axes, history, rates))
    columns = 3 if len(panels) in (2, 4, 5) else 2
    rows = -(-(len(panels) + 1) // columns)
    figure = new_figure(4.2 * columns, 3.5 * rows + (0.4 if heading else 0.1), constrained=True)
    add_heading(figure, heading)
    for place, panel in enumerate(panels, 1):
        panel(figure.add_subplot(rows, columns, place))
    axes = figure.add_subplot(rows, columns, (len(panels) + 1, rows * columns))  # the remaining cells
    _summary(axes, history, monitor, best, facts, wide=rows * columns > len(panels) + 1)
    return figure


def add_heading(figure: "Figure", heading: str) -> None:
    """Write a title above all panels, unless it is empty."""
    if heading:
        style = {"fontsize": 12, "fontweight": "bold", "color": INK}
        title = figure.suptitle(printable(heading, lines=False), x=0.01, ha="left", parse_math=False, **style)
        shorten_to_width(title, 0.98 * figure.get_figwidth())


def finish_axes(axes: "Axes", title: str, unit: str) -> None:
    """Add the title, the legend and the label of the x axis to a panel."""
    style_axes(axes, title)
    _finish(axes, unit)


def plot_series(axes: "Axes", history: History, name: str, color: str, label: str = "", **style: Any) -> None:
    """Draw a metric over the epochs, if it was logged."""
    steps, values = _thin(*history.series(name))
    if len(values) == 0:
        return
    x = history.epochs_at(steps)
    if len(values) > 40:
        style.pop("marker", None)
    elif len(values) == 1:
        style.setdefault("marker", ".")  # a line of one point is invisible
    axes.plot(
        steps if x is None else x,
        values,
        color=color,
        label=label if label == "_" else legend_name(label or name),
        **style,
    )


def _thin(steps: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    stride = max(len(steps) // _POINTS, 1)  # more points are indistinguishable and slow to draw
    return steps[::stride], values[::stride]


def _finish(axes: "Axes", unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(unit, fontsize=8, color=INK)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    add_legend(axes)


def _losses(axes: "Axes", history: History, monitor: str, mode: str) -> None:
    means = history.series("train_loss")[1]
    steps = history.series("train_loss_step")[1]
    if len(steps) != len(means) or not np.allclose(steps, means, rtol=1e-3):  # equal if every epoch has one step
        plot_series(axes, history, "train_loss_step", BLUE, "train, single steps", linewidth=0.6, alpha=0.4)
    plot_series(axes, history, "train_loss", BLUE, "train", marker="o", markersize=3.5)
    plot_series(axes, history, "val_loss", ORANGE, "validation", marker="o", markersize=3.5)
    values = np.concatenate([history.series(n)[1] for n in ("train_loss_step", "train_loss", "val_loss")])
    if len(values) and values.max() > 30 * values.min() > 0:
        axes.set_yscale("log")
    _mark_best(axes, history, monitor, mode, star=monitor in ("train_loss", "val_loss"))
    style_axes(axes, "loss")
    _finish(axes, history.unit)


def _monitor(axes: "Axes", history: History, monitor: str, mode: str) -> None:
    plot_series(axes, history, monitor, ORANGE, marker="o", markersize=3.5)
    _mark_best(axes, history, monitor, mode, star=True)
    style_axes(axes, monitor)
    _finish(axes, history.unit)


def _mark_best(axes: "Axes", history: History, monitor: str, mode: str, star: bool) -> None:
    best = history.best(monitor, mode)
    if best is None:
        return
    steps, values = history.series(monitor)
    index = int(np.flatnonzero(values == best[0])[-1])  # the last of equal values
    x = history.epochs_at(steps)
    place = (steps if x is None else x)[index]
    axes.axvline(place, color=GREEN, linewidth=0.9, linestyle=":")
    if star:
        label = f"best: {short_number(best[0])} in epoch {best[1]}"
        axes.plot([place], [best[0]], marker="*", markersize=13, color=GREEN, linestyle="", label=label)


def _several(axes: "Axes", history: History, names: list[str], title: str) -> None:
    for name, color in zip(names[:_SERIES], PALETTE, strict=False):
        plot_series(axes, history, name, color, marker="o", markersize=3)
    more = f" ({_SERIES} of {len(names)})" if len(names) > _SERIES else ""
    style_axes(axes, title + more)
    _finish(axes, history.unit)


def _learning_rate(axes: "Axes", history: History, names: list[str]) -> None:
    positive = []
    for name, color in zip(names[:_SERIES], (INK, *PALETTE), strict=False):
        steps, values = _thin(*history.series(name))
        marker = "." if len(values) == 1 else ""
        axes.plot(
            steps, values, color=color, label=legend_name(name) if len(names) > 1 else "", linewidth=1.3, marker=marker
        )
        positive.append(values[values > 0])
    rates = np.concatenate(positive)
    style_axes(axes, "learning rate")
    # The quantile ignores the last steps of a decay to zero, which alone do not justify a log axis.
    if len(rates) and rates.max() > 100 * np.quantile(rates, 0.1):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:g}")
    _finish(axes, "step")


def _summary(
    axes: "Axes",
    history: History,
    monitor: str,
    best: tuple[float, int] | None,
    facts: Mapping[str, str],
    wide: bool,
) -> None:
    axes.set_title("summary", loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_axis_off()
    names = [name for name in (monitor, "train_loss", "val_loss") if name in history.names]
    names = list(dict.fromkeys([*names, *(n for n in history.names if n.startswith("val_"))]))[:_SERIES]
    header = {"best epoch": best[1]} if best else {}
    if names:
        header["last epoch"] = history.epochs or header.get("best epoch", 0)
    width = min(20, max([11, *map(len, names)]) + 1)
    lines = [(" " * width + "".join(f"{text:>11}" for text in row), GRAY) for row in (header, header.values())]
    for name in names:
        cells = [best[0] if name == monitor else history.last(name, best[1])] if best else []
        cells.append(history.last(name))
        text = "".join(f"{'-' if value is None else short_number(value):>11}" for value in cells)
        name = printable(name, lines=False)
        shown = name if len(name) < width else f"{name[: width - 2]}…"
        lines.append((f"{shown:<{width}}{text}", GREEN if name == monitor else INK))
    all_facts = {"epochs": f"{history.epochs}", "steps": f"{history.steps:,}", **facts}
    fact_lines = [(f"{key:<12}  {value}", INK) for key, value in all_facts.items()]
    if wide:
        _write(axes, 0.0, lines)
        _write(axes, 0.5, [("", INK), ("", INK), *fact_lines])
    else:
        _write(axes, 0.0, [*lines, ("", INK), *fact_lines])


def _write(axes: "Axes", x: float, lines: list[tuple[str, str]]) -> None:
    spacing = min(0.083, 1 / len(lines))
    for index, (line, color) in enumerate(lines):
        axes.text(
            x,
            0.98 - index * spacing,
            line,
            transform=axes.transAxes,
            va="top",
            family="monospace",
            fontsize=min(9.0, 112 * spacing),
            fontweight="bold" if color == GREEN else "normal",
            color=color,
            parse_math=False,
        )
