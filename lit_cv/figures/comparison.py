"""Figures of a comparison of learning approaches, drawn from its results."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_cv.figures.canvas import BLUE, GRAY, INK, PALETTE, legend_name, literal_text, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Cell", "Measured", "compute_figure", "cost_figure", "labels_figure", "labels_needed", "overview_figure"]

_COLORS = (INK, BLUE, *PALETTE)
_MARKERS = "os^Dv<>phX"
_SHORT_TITLE = 24  # characters, of which three fit beside each other
_TARGET = 0.95  # fraction of the best mean that the panels about required labels use as their target


@dataclass(frozen=True)
class Cell:
    """Results of an approach with a number of labels.

    Attributes:
        budget: The label budget as configured: labels per class, a fraction, or `all`.
        labels: The number of labels.
        images: The number of images used in training, labeled or not.
        values: The metric of each seed, in [0, 1].
        seconds: Mean duration of the training with labels in seconds.
        pretraining_seconds: Mean duration of the pretraining in seconds.
    """

    budget: str
    labels: int
    images: int
    values: tuple[float, ...]
    seconds: float
    pretraining_seconds: float

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds, `nan` for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class Measured:
    """An approach and its results, in ascending order of labels."""

    name: str
    title: str
    cells: tuple[Cell, ...]

    def cell(self, budget: str) -> Cell | None:
        """Return the result for a label budget, `None` if there is none."""
        return next((cell for cell in self.cells if cell.budget == budget), None)


@literal_text
def labels_figure(measured: Sequence[Measured], metric: str) -> "Figure":
    """Draw the metric against the number of labels: mean, standard deviation, and each seed as a dot."""
    figure = new_figure(7.0, 4.6, constrained=True)
    axes = figure.add_subplot()
    _curves(axes, measured, lambda cell: cell.labels)
    _finish(axes, f"{metric} against labels", "labels", metric)
    _legend(axes)
    return figure


@literal_text
def compute_figure(measured: Sequence[Measured], metric: str) -> "Figure":
    """Draw the metric against the training time including pretraining; larger markers mean more labels."""
    figure = new_figure(7.0, 4.6, constrained=True)
    axes = figure.add_subplot()
    for place, approach in enumerate(measured):
        color, marker = _COLORS[place % len(_COLORS)], _MARKERS[place % len(_MARKERS)]
        for rank, cell in enumerate(approach.cells):
            total = cell.seconds + cell.pretraining_seconds
            label = legend_name(approach.title) if rank == len(approach.cells) - 1 else None
            axes.plot(
                total, 100 * cell.mean, linestyle="", color=color, marker=marker, markersize=5 + 2.5 * rank, label=label
            )
            axes.annotate(cell.budget, (total, 100 * cell.mean), (6, -3), textcoords="offset points", fontsize=7,
                          color=color)  # fmt: skip
    _finish(axes, f"{metric} against compute", "training time in seconds, including pretraining", metric)
    _legend(axes)
    return figure


@literal_text
def cost_figure(measured: Sequence[Measured], metric: str, cost_per_label: float) -> "Figure":
    """Draw the metric against the cost of the labels."""
    figure = new_figure(7.0, 4.6, constrained=True)
    axes = figure.add_subplot()
    _curves(axes, measured, lambda cell: cell.labels * cost_per_label)
    _finish(axes, f"{metric} against annotation", f"cost of annotation, {cost_per_label:g} per label", metric)
    _legend(axes)
    return figure


@literal_text
def overview_figure(measured: Sequence[Measured], metric: str, cost_per_label: float | None = None) -> "Figure":
    """Draw four panels: required data, annotation effort, performance and time."""
    figure = new_figure(12.5, 7.6, constrained=True)
    best = max(cell.mean for approach in measured for cell in approach.cells)
    target = _TARGET * best
    needed = {approach.name: labels_needed(approach, target) for approach in measured}
    heading = f"data and annotation needed for {100 * target:.1f} % {metric} ({100 * _TARGET:.0f} % of the best)"
    figure.suptitle(heading, x=0.01, ha="left", fontsize=10, color=INK, parse_math=False)
    _images_panel(figure.add_subplot(2, 2, 1), measured, needed, "data needed")
    _effort_panel(figure.add_subplot(2, 2, 2), measured, needed, "annotation needed", cost_per_label)
    _performance_panel(figure.add_subplot(2, 2, 3), measured, metric)
    _time_panel(figure.add_subplot(2, 2, 4), measured)
    return figure


def labels_needed(approach: Measured, target: float) -> float:
    """Return the number of labels that an approach needs for a mean of `target`, by logarithmic interpolation.

    Returns:
        The number; the smallest budget if it is sufficient, `inf` if the largest one is not.

    Example:
        >>> cells = tuple(Cell(str(n), n, n, (v,), 1.0, 0.0) for n, v in ((10, 0.5), (1000, 0.9)))
        >>> round(labels_needed(Measured("a", "a", cells), 0.7)), labels_needed(Measured("a", "a", cells), 0.95)
        (100, inf)
    """
    cells = approach.cells
    for k, cell in enumerate(cells):
        if cell.mean >= target:
            if k == 0:
                return float(cell.labels)
            before = cells[k - 1]
            fraction = (target - before.mean) / (cell.mean - before.mean)
            return float(before.labels * (cell.labels / before.labels) ** fraction)
    return math.inf


def _curves(axes: "Axes", measured: Sequence[Measured], x: Callable[[Cell], float]) -> None:
    for place, approach in enumerate(measured):
        color = _COLORS[place % len(_COLORS)]
        places = [x(cell) for cell in approach.cells]
        spreads = [0.0 if math.isnan(cell.spread) else 100 * cell.spread for cell in approach.cells]
        axes.errorbar(
            places, [100 * cell.mean for cell in approach.cells], spreads, color=color, capsize=3, linewidth=1.5,
            marker=_MARKERS[place % len(_MARKERS)], markersize=5, label=legend_name(approach.title),
        )  # fmt: skip
        for at, cell in zip(places, approach.cells, strict=True):
            axes.plot([at] * len(cell.values), [100 * v for v in cell.values], ".", color=color, alpha=0.4)
    axes.set_xscale("log")
    ticks = sorted({x(cell) for approach in measured for cell in approach.cells})
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()


def _finish(axes: "Axes", title: str, x: str, y: str) -> None:
    style_axes(axes, title)
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(f"test {y} in %", fontsize=8, color=INK)


def _legend(axes: "Axes") -> None:
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _images_panel(axes: "Axes", measured: Sequence[Measured], needed: dict[str, float], title: str) -> None:
    """Draw bars of the labeled images that an approach needs and the unlabeled images that it uses."""
    rows = range(len(measured))
    largest = 0.0
    for row, approach in zip(rows, measured, strict=True):
        labels, images = needed[approach.name], float(approach.cells[0].images)
        uses_unlabeled = images > approach.cells[0].labels
        if math.isinf(labels):
            axes.text(0, row, " not reached", va="center", fontsize=8, color=GRAY)
            continue
        unlabeled = max(images - labels, 0.0) if uses_unlabeled else 0.0
        axes.barh(row, labels, 0.6, color=BLUE, label="with labels" if not largest else None)
        axes.barh(row, unlabeled, 0.6, left=labels, color="#c9d7e6")
        axes.text(labels + unlabeled, row, f" {labels:,.0f} + {unlabeled:,.0f}", va="center", fontsize=8, color=INK)
        largest = max(largest, labels + unlabeled)
    _horizontal(axes, measured, title, "images: with labels + without", largest)


def _effort_panel(
    axes: "Axes", measured: Sequence[Measured], needed: dict[str, float], title: str, cost: float | None
) -> None:
    largest = 0.0
    for row, approach in enumerate(measured):
        labels = needed[approach.name]
        if math.isinf(labels):
            axes.text(0, row, " not reached", va="center", fontsize=8, color=GRAY)
            continue
        value = labels * (cost or 1.0)
        at_most = "≤ " if labels == approach.cells[0].labels else ""
        axes.barh(row, value, 0.6, color=PALETTE[0])
        axes.text(
            value,
            row,
            f" {at_most}{value:,.0f}" if cost is None else f" {at_most}{value:,.2f}",
            va="center",
            fontsize=8,
            color=INK,
        )
        largest = max(largest, value)
    _horizontal(axes, measured, title, "labels" if cost is None else f"cost at {cost:g} per label", largest)


def _performance_panel(axes: "Axes", measured: Sequence[Measured], metric: str) -> None:
    budgets = {cell.budget: cell.labels for approach in measured for cell in approach.cells}
    order = sorted(budgets, key=lambda b: budgets[b])
    width = 0.8 / len(measured)
    for place, approach in enumerate(measured):
        for group, budget in enumerate(order):
            if (cell := approach.cell(budget)) is None:
                continue
            spread = 0.0 if math.isnan(cell.spread) else 100 * cell.spread
            axes.bar(group + (place - (len(measured) - 1) / 2) * width, 100 * cell.mean, width, yerr=spread, capsize=2,
                     color=_COLORS[place % len(_COLORS)], label=legend_name(approach.title) if group == 0 else None,
                     error_kw={"linewidth": 0.8, "ecolor": GRAY})  # fmt: skip
    style_axes(axes, "performance: mean and spread")
    axes.set_xticks(range(len(order)), [f"{budgets[budget]:,} labels" for budget in order])
    axes.set_ylabel(f"test {metric} in %", fontsize=8, color=INK)
    axes.set_ylim(0, 100)
    columns = 3 if all(len(approach.title) <= _SHORT_TITLE for approach in measured) else 1
    axes.legend(fontsize=7, frameon=False, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _time_panel(axes: "Axes", measured: Sequence[Measured]) -> None:
    largest = 0.0
    for row, approach in enumerate(measured):
        pretraining = statistics.mean(cell.pretraining_seconds for cell in approach.cells)
        training = statistics.mean(cell.seconds for cell in approach.cells)
        total = pretraining + training
        axes.barh(row, pretraining, 0.6, color="#c9d7e6", label="earlier stages" if row == 0 else None)
        axes.barh(row, training, 0.6, left=pretraining, color=BLUE, label="last stage, per run" if row == 0 else None)
        axes.text(total, row, f" {total:,.1f}", va="center", fontsize=8, color=INK)
        largest = max(largest, total)
    _horizontal(axes, measured, "training time", "seconds", largest)
    axes.legend(fontsize=7, frameon=False, loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.12))


def _horizontal(axes: "Axes", measured: Sequence[Measured], title: str, unit: str, largest: float) -> None:
    style_axes(axes, title)
    axes.set_yticks(range(len(measured)), [legend_name(approach.title) for approach in measured], parse_math=False)
    axes.set_ylim(len(measured) - 0.5, -0.5)
    axes.set_xlim(0, 1.22 * largest or 1)
    axes.set_xlabel(unit, fontsize=8, color=INK)
