"""Creation of matplotlib figures, and their conversion to pixels and PNG files."""

import functools
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from lit_cv.atomic_files import atomic_write
from lit_cv.figures.fonts import fonts_with
from lit_cv.figures.matplotlib_defaults import default_look
from lit_cv.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = [
    "BLUE",
    "GRAY",
    "GREEN",
    "INK",
    "ORANGE",
    "PALETTE",
    "RED",
    "add_legend",
    "legend_name",
    "literal_text",
    "new_figure",
    "render",
    "save_png",
    "shorten_to_width",
    "style_axes",
]

INK, GRAY = "#24292f", "#8c959f"
BLUE, ORANGE, GREEN, RED = "#3b76af", "#e1812c", "#2f8f5b", "#c03d3e"
PALETTE = (ORANGE, GREEN, "#7a5195", RED, "#845b53", "#d684bd", GRAY, "#a9aa35")

_LONG_LABEL = 24  # number of characters above which the labels of a legend stand one below the other


Arguments = ParamSpec("Arguments")


def literal_text(function: "Callable[Arguments, Figure]") -> "Callable[Arguments, Figure]":
    """Decorate a function that returns a figure: use matplotlib's defaults, and draw all text literally."""

    @functools.wraps(function)
    def draw(*args: Arguments.args, **kwargs: Arguments.kwargs) -> "Figure":
        return _build(lambda: function(*args, **kwargs))

    return draw


def _build(function: "Callable[[], Figure]") -> "Figure":
    with default_look():
        figure = function()
        _draw_text_literally(figure)
        return figure


def _draw_text_literally(figure: "Figure") -> None:
    """Keep matplotlib from parsing dollar signs in names as formulas, except in the tick labels of log axes.

    An invalid formula would raise an error, and a valid one would be drawn as something else.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                tick.label1.set_parse_math(True)
                tick.label2.set_parse_math(True)


def legend_name(name: object, length: int = 60) -> str:
    """Format a name for a legend in one line; a leading underscore, which would hide it, is preceded by a space.

    Example:
        >>> legend_name("_run")
        ' _run'
    """
    text = printable(" ".join(str(name).split()), lines=False)
    text = text if len(text) <= length else text[: length - 1] + "…"
    return f" {text}" if text.startswith("_") else text


def new_figure(width: float, height: float, constrained: bool = False) -> "Figure":
    """Return an empty white figure that needs no display; notebooks show it as the value of a cell.

    Args:
        width: Width in inches.
        height: Height in inches.
        constrained: Whether to use the constrained layout, which avoids overlapping labels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1) if constrained else None
    figure = Figure((width, height), dpi=120, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    figure._repr_png_ = lambda: _png(figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: "Figure") -> bytes:
    """Return the PNG file of a figure."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(render(figure)).save(file, format="PNG")
    return file.getvalue()


def style_axes(axes: "Axes", title: str) -> None:
    """Apply the style of lit_cv to axes: a bold title on the left, light grid lines, no box."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.tick_params(labelsize=8, color=GRAY, labelcolor=INK)
    axes.grid(color="#e6e8eb", linewidth=0.7)
    axes.set_axisbelow(True)


def add_legend(axes: "Axes", columns: int = 2) -> None:
    """Add a legend below axes, where it covers nothing, if anything has a label."""
    from matplotlib.transforms import ScaledTranslation

    labels = axes.get_legend_handles_labels()[1]
    if labels:
        figure: Any = axes.figure
        below = axes.transAxes + ScaledTranslation(-0.05, -0.43, figure.dpi_scale_trans)  # inches, below the x label
        columns = 1 if max(map(len, labels)) > _LONG_LABEL else columns
        style: dict[str, Any] = {"fontsize": 7.5, "frameon": False, "handlelength": 1.6, "columnspacing": 1.2}
        style |= {"bbox_transform": below, "borderaxespad": 0}
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=columns, **style)


def shorten_to_width(text: "Text", width: float) -> None:
    """End a text that is wider than `width` inches with "…"."""
    figure: Any = text.figure
    renderer, complete = figure.canvas.get_renderer(), text.get_text()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .*missing")  # `render` handles missing glyphs
        for length in range(len(complete) - 1, 0, -1):
            if text.get_window_extent(renderer).width <= width * figure.dpi:
                return
            text.set_text(f"{complete[:length].rstrip()}…")


def render(figure: "Figure") -> NDArray[np.uint8]:
    """Draw a figure and return its pixels.

    Returns:
        Pixels, (height, width, 3) uint8.
    """
    with default_look():
        canvas = _rendered(figure)
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def _rendered(figure: "Figure") -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas: Any = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        canvas = FigureCanvasAgg(figure)
    if (missing := _draw(canvas)) and (fonts := [name for name, _ in fonts_with(missing)]):
        for text in figure.findobj(Text):
            text.set_fontfamily([*text.get_fontfamily(), *fonts])
        _draw(canvas)
    return canvas


def _draw(canvas: Any) -> set[str]:
    """Draw a figure, and return the characters that its fonts lack."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always")
        canvas.draw()
    missing = set()
    for warning in caught:
        if glyph := re.match(r"Glyph (\d+) .*missing", str(warning.message)):
            missing.add(chr(int(glyph[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return missing


def save_png(pixels: NDArray[np.uint8], path: str | Path) -> None:
    """Write pixels to a PNG file atomically: readers never see a partial file.

    Args:
        pixels: (height, width, 3) uint8.
        path: The file; its folder is created if it is missing.
    """
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "the figure", sync=False) as part:
        Image.fromarray(pixels).save(part, format="PNG")
