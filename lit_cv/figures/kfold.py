"""A figure of the results of a cross-validation."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lit_cv.figures.canvas import BLUE, INK, ORANGE, legend_name, literal_text, new_figure, style_axes
from lit_cv.figures.classification import draw_cell_borders
from lit_cv.figures.history import is_drawable
from lit_cv.figures.images import short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["kfold_figure"]

_MAX_METRICS = 4  # maximum number of metrics
_NAMED = 20  # maximum number of classes for a readable confusion matrix


@literal_text
def kfold_figure(
    metrics: Mapping[str, Sequence[float]],
    confusion: Tensor | None = None,
    class_names: Sequence[str] = (),
    heading: str = "",
) -> "Figure":
    """Draw the metrics of all folds with mean and standard deviation, and the confusion matrix.

    Args:
        metrics: Values of the folds by metric name; four metrics are shown, scores in [0, 1] first.
        confusion: (K, K) counts over all folds; row = true class.
        class_names: Names of the K classes.
        heading: Title.
    """
    metrics = {name: values for name, values in metrics.items() if values}
    shares = [name for name in metrics if all(0 <= value <= 1 for value in metrics[name])]
    first = [name for name in shares if not name.endswith(("loss", "ece"))]
    chosen = [*first, *(name for name in metrics if name not in first)][:_MAX_METRICS]
    matrix = confusion is not None and 1 < len(confusion) <= _NAMED
    figure = new_figure(2.3 * len(chosen) + (4.8 if matrix else 0.6), 4.2, constrained=True)
    grid = figure.add_gridspec(1, len(chosen) + int(matrix), width_ratios=[1.0] * len(chosen) + [2.2] * int(matrix))
    for place, name in enumerate(chosen):
        _draw_metric(figure.add_subplot(grid[0, place]), name, list(metrics[name]))
    if matrix and confusion is not None:
        _draw_confusion(figure.add_subplot(grid[0, len(chosen)]), confusion, class_names)
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def _draw_metric(axes: "Axes", name: str, values: list[float]) -> None:
    places = [0.3 * (k / max(len(values) - 1, 1) - 0.5) for k in range(len(values))]
    finite = [value for value in values if is_drawable(value)]
    name = legend_name(name)
    if len(finite) < len(values):
        title = f"{name}\nnot finite in {len(values) - len(finite)} of {len(values)}"
        values = [value if is_drawable(value) else math.nan for value in values]
    else:
        mean = statistics.mean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.axhspan(mean - spread, mean + spread, color=BLUE, alpha=0.15, linewidth=0)
        axes.axhline(mean, color=BLUE, linewidth=1.5)
        title = f"{name}\n{mean:.4f} ± {spread:.4f}"
    axes.plot(places, values, linestyle="", marker="o", color=ORANGE, markersize=5)
    for number, (place, value) in enumerate(zip(places, values, strict=True), 1):
        if math.isfinite(value):
            axes.annotate(str(number), (place, value), (4, 3), textcoords="offset points", fontsize=7, color=INK)
    style_axes(axes, title)
    axes.set_xlim(-0.35, 0.35)
    axes.set_xticks([])


def _draw_confusion(axes: "Axes", confusion: Tensor, class_names: Sequence[str]) -> None:
    from matplotlib.colors import PowerNorm

    counts = confusion.numpy()
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="auto")
    for row, column in zip(*counts.nonzero(), strict=True):
        color = "white" if shares[row, column] > 0.35 else INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    names = [short_name(name) for name in class_names or range(len(counts))]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    right = counts.trace() / max(counts.sum(), 1)
    style_axes(axes, f"predictions on the held-out folds:\n{100 * right:.2f} % of {counts.sum():,} correct")
    axes.grid(False)
    draw_cell_borders(axes, len(counts))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class", fontsize=8, color=INK)
    axes.set_ylabel("true class", fontsize=8, color=INK)
