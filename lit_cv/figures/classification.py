"""Figures of the errors of a classifier: the confusion matrix, precision and recall."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_cv.figures.canvas import BLUE, INK, ORANGE, literal_text, new_figure, style_axes
from lit_cv.figures.images import short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["confusion_figure", "draw_cell_borders", "precision_recall_figure"]

_COUNTED = 20  # maximum number of classes for counts in the cells
_NAMED = 50  # maximum number of classes for class names
_SEPARATED = 30  # maximum number of classes for lines between the cells
_BARS = 30  # maximum number of classes with bars


@literal_text
def confusion_figure(matrix: Tensor, class_names: Sequence[str] | None = None, heading: str = "") -> "Figure":
    """Draw a confusion matrix with counts, colored by the fraction of each true class.

    Args:
        matrix: (K, K) counts; row = true class, column = predicted class. Counts are written for up to 20 classes,
            class names for up to 50.
        class_names: Names of the K classes.
        heading: Title; the accuracy is appended.

    Raises:
        ValueError: If the matrix is not square.
    """
    counts = matrix.detach().cpu().numpy().astype(np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0:
        raise ValueError(f"confusion matrix of shape {counts.shape}: give a square matrix, (K, K).")
    from matplotlib.colors import PowerNorm

    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 8.0 if classes > _NAMED else 1.6 + (0.52 if classes <= _COUNTED else 0.19) * classes
    figure = new_figure(max(side, 4.2) + 1.2, max(side, 4.2), constrained=True)
    axes = figure.add_subplot()
    # The square root makes the few errors of a good classifier visible.
    shown = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"], fontsize=8)
    bar.outline.set_visible(False)
    if classes <= _NAMED:
        names = [short_name(name) for name in class_names or range(classes)]
        size = 8 if classes <= _COUNTED else 6.5
        axes.set_xticks(range(classes), names, parse_math=False, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), names, parse_math=False)
        axes.tick_params(labelsize=size, length=0, labelcolor=INK)
    if classes <= _COUNTED:
        _write_counts(axes, counts, shares)
    draw_cell_borders(axes, classes)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class", fontsize=9, color=INK)
    axes.set_ylabel("true class", fontsize=9, color=INK)
    right, total = int(np.trace(counts)), int(counts.sum())
    accuracy = f"{100 * right / max(total, 1):.2f} % of {total:,} correct"
    title = f"{heading}: {accuracy}" if heading else accuracy
    axes.set_title(title, fontsize=10, fontweight="bold", color=INK)
    return figure


def draw_cell_borders(axes: "Axes", classes: int) -> None:
    """Draw thin lines between the cells of a (classes, classes) image, unless there are too many."""
    if classes > _SEPARATED:
        return
    edges = np.arange(classes + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor", color="#d0d7de", linewidth=0.7)


def _write_counts(axes: "Axes", counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    size = 8 if counts.max() < 10_000 else 6.5
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.35 else INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=color)


@literal_text
def precision_recall_figure(table: Tensor, class_names: Sequence[str] | None = None, heading: str = "") -> "Figure":
    """Draw precision and recall of every class as bars, for multi-label classification.

    Args:
        table: (3, K) numbers of images: true positives, predicted positives and actual positives of each class. The 30
            most frequent classes are shown.
        class_names: Names of the K classes.
        heading: Title.
    """
    hits, predicted, present = table.detach().cpu().double().numpy()
    shown = np.argsort(-present, kind="stable")[:_BARS]
    precision = (hits / np.maximum(predicted, 1))[shown]
    recall = (hits / np.maximum(present, 1))[shown]
    names = [short_name(class_names[i] if class_names else i) for i in shown]
    figure = new_figure(6.5, 1.3 + 0.3 * len(shown), constrained=True)
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    axes.barh(places - 0.19, precision, 0.36, color=BLUE, label="precision")
    axes.barh(places + 0.19, recall, 0.36, color=ORANGE, label="recall")
    labels = [f"{name} ({int(n):,})" for name, n in zip(names, present[shown], strict=True)]
    axes.set_yticks(places, labels, parse_math=False)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    more = f" ({len(shown)} of {len(present)} classes)" if len(shown) < len(present) else ""
    style_axes(axes, (heading or "precision and recall") + more)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
