"""A figure of the curves of several runs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lit_cv.errors import argument
from lit_cv.figures.canvas import BLUE, INK, PALETTE, legend_name, literal_text, new_figure, style_axes
from lit_cv.figures.history import History
from lit_cv.printable import printable
from lit_cv.suggest import nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["overlay_figure"]

_FIRST = ("train_loss", "val_loss", "val_acc", "val_knn_acc")
_MAX_PANELS = 6  # maximum number of panels if no metrics are specified
_COLORS = (BLUE, *PALETTE, INK)
_STYLES = ("-", "--", ":", "-.")
_POINTS = 1500


@literal_text
def overlay_figure(runs: Mapping[str, History], metrics: Sequence[str] | None = None, unit: str = "epoch") -> "Figure":
    """Draw a panel for each metric, with a line for each run.

    Args:
        runs: Logged metrics of the runs by run name.
        metrics: Metrics to draw; `None` selects the losses and validation metrics, at most six.
        unit: Unit of the x axis: `epoch` or `step`. If a run has no complete epoch, it is `step`.

    Raises:
        ValueError: If there is nothing to draw, or no run has logged a requested metric.
    """
    from matplotlib.ticker import MaxNLocator

    logged = dict.fromkeys(name for history in runs.values() for name in history.names)
    for name in metrics or ():
        if name not in logged:
            names = printable(", ".join(logged)[:500], lines=False)
            raise ValueError(f"no run has logged {name!r}{nearest(name, logged)} Logged metrics: {names}.")
    chosen = list(metrics) if metrics else _choose(list(logged))
    if not chosen:
        raise ValueError(f"the runs have logged no loss and no validation metric: set {argument('metrics')}.")
    unit = "step" if any(history.epochs == 0 for history in runs.values()) else unit
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(4.4 * columns + 0.4, 3.1 * rows + 0.3 + 0.2 * len(runs), constrained=True)
    lines = []
    for place, metric in enumerate(chosen, 1):
        axes = figure.add_subplot(rows, columns, place)
        for number, (name, history) in enumerate(runs.items()):
            steps, values = history.series(metric)
            x = history.epochs_at(steps) if unit == "epoch" else steps
            stride = max(1, len(steps) // _POINTS)
            color, style = _COLORS[number % len(_COLORS)], _STYLES[number // len(_COLORS) % len(_STYLES)]
            marker = "o" if len(values) <= 40 else ""
            drawn = axes.plot(
                (steps if x is None else x)[::stride], values[::stride], color=color, linestyle=style, marker=marker,
                markersize=3, linewidth=1.3,
            )  # fmt: skip
            if place == 1:
                lines.append((drawn[0], legend_name(name)))
        style_axes(axes, legend_name(metric))
        axes.set_xlabel(unit, fontsize=8, color=INK)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        values = np.concatenate([history.series(metric)[1] for history in runs.values()])
        if metric.endswith("loss") and len(values) and values.max() > 30 * values.min() > 0:
            axes.set_yscale("log")
    figure.legend(*zip(*lines, strict=True), loc="outside lower left", fontsize=8, frameon=False)
    return figure


def _choose(logged: Sequence[str]) -> list[str]:
    first = [name for name in _FIRST if name in logged]
    others = [name for name in logged if name.startswith("val_") and name not in first]
    return [*first, *others][:_MAX_PANELS]
