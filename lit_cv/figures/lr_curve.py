"""A figure of the loss at increasing learning rates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lit_cv.figures.canvas import BLUE, GREEN, INK, literal_text, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["lr_curve_figure"]


@literal_text
def lr_curve_figure(rates: Sequence[float], losses: Sequence[float], suggestion: float | None) -> "Figure":
    """Draw the loss over the learning rate.

    Args:
        rates: Learning rates, in ascending order.
        losses: Smoothed loss at each learning rate.
        suggestion: Learning rate to mark.
    """
    figure = new_figure(6.4, 4.0, constrained=True)
    axes = figure.add_subplot()
    axes.plot(rates, losses, color=BLUE, linewidth=1.5)
    if suggestion is not None:
        loss = float(np.interp(np.log(suggestion), np.log(rates), losses))
        axes.plot([suggestion], [loss], "o", color=GREEN, markersize=9, label=f"suggested: {suggestion:.2g}")
        axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    style_axes(axes, "loss over the learning rate")
    axes.set_xscale("log")
    finite = np.asarray(losses)[np.isfinite(losses)]
    if len(finite):  # limit the range, which an exploding loss would dominate
        top = float(finite[: max(1, len(finite) // 4)].max())
        axes.set_ylim(float(finite.min()) - 0.05 * top, min(float(finite.max()), 1.5 * top) + 0.05 * top)
    axes.set_xlabel("learning rate", fontsize=8, color=INK)
    axes.set_ylabel("training loss, smoothed", fontsize=8, color=INK)
    return figure
