"""A figure with a grid of titled images."""

import warnings
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_cv.figures.canvas import INK, literal_text, new_figure
from lit_cv.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = ["image_grid", "label_titles", "short_name"]

_CELL = 1.2  # width of an image in inches
_LINE = 0.135  # height of a line of a title in inches
_LEGEND_ROW = 0.2  # height of a row of a legend in inches
_MAX_ENTRIES = 24  # maximum number of entries of a legend
_FLOOR = 0.05  # smallest weight of a mixed label that is shown


def short_name(name: object, length: int = 18) -> str:
    """Shorten a name to one line of at most `length` characters.

    Example:
        >>> short_name("a class name far too long to print", 12)
        'a class nam…'
    """
    text = printable(" ".join(str(name).split()), lines=False)
    return text if len(text) <= length else text[: length - 1] + "…"


def label_titles(labels: Tensor, class_names: Sequence[str] | None = None) -> list[str]:
    r"""Return a title for each label.

    Args:
        labels: (N,) int64, -1 if unlabeled; or (N, K) weights: a mixture, whose row sums to 1, shows its two largest
            weights in percent; a multi-label row shows all names.
        class_names: Names of the classes; without them, numbers are shown.

    Example:
        >>> label_titles(torch.tensor([1, -1]), ["cat", "dog"])
        ['dog', 'unlabeled']
        >>> label_titles(torch.tensor([[0.7, 0.3], [0.0, 1.0]]), ["cat", "dog"])
        ['cat (70 %)\ndog (30 %)', 'dog']
        >>> label_titles(torch.tensor([[1.0, 1.0]]), ["cat", "dog"])
        ['cat, dog']
    """

    def name(index: int) -> str:
        named = class_names is not None and 0 <= index < len(class_names)
        return short_name(class_names[index] if named and class_names is not None else index)

    rows = labels.detach().cpu().tolist()
    if labels.ndim == 1:
        return [name(int(label)) if label >= 0 else "unlabeled" for label in rows]
    titles = []
    for row in rows:
        order = sorted(range(len(row)), key=lambda index, row=row: -row[index])  # type: ignore[misc]
        if abs(sum(row) - 1) > 1e-2 or row[order[0]] > 1 - 1e-3:
            chosen = [name(index) for index in range(len(row)) if row[index] > 0.5]
            titles.append(", ".join(chosen) or "none")
        else:
            chosen = [f"{name(i)} ({100 * row[i]:.0f} %)" for i in order[:2] if row[i] >= _FLOOR]
            titles.append("\n".join(chosen))
    return titles


@literal_text
def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    heading: str = "",
    colors: Sequence[str] | None = None,
    columns: int = 8,
    cell: float = _CELL,
    legend: Sequence[tuple[str, str]] = (),
) -> "Figure":
    """Draw images in a grid.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1]; unless C is 3, only the first channel is shown.
        titles: A title of one or two lines for each image.
        heading: Text above the grid, wrapped if it is too long for one line.
        colors: Color of each title.
        columns: Maximum number of images in a row.
        cell: Width of an image in inches.
        legend: Names and colors that are explained below the grid; more than 24 end with "…".

    Raises:
        ValueError: If there are no images, or they have another shape.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images have the shape {tuple(images.shape)}: give (N, C, H, W), N at least 1.")
    from matplotlib.patches import Rectangle

    pixels = _displayable(images)
    titles = [printable(title) for title in titles or ()]
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    height = cell * pixels.shape[1] / pixels.shape[2]
    step_x, step_y = cell + 0.08, height + _LINE * lines + 0.1
    width = columns * step_x + 0.08
    heading = "\n".join(wrap(printable(heading), max(12, int(11 * width))))  # about 11 characters fit into an inch
    head = 0.3 + 0.17 * heading.count("\n") if heading else 0.0
    entries = _place_legend(legend, width)
    foot = _LEGEND_ROW * (entries[-1][0] + 1) if entries else 0.0
    total = rows * step_y + head + 0.08 + foot

    # A single set of axes in inches; one for each image takes ten times as long to draw.
    figure = new_figure(width, total)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    for index, image in enumerate(pixels):
        left = 0.08 + index % columns * step_x
        bottom = total - head - (index // columns + 1) * step_y + 0.05
        axes.imshow(image, extent=(left, left + cell, bottom, bottom + height), interpolation="auto")
        if index < len(titles):
            color = colors[index] if colors is not None else INK
            _write(axes, left + cell / 2, bottom + height + 0.045, titles[index], color, cell)
    if heading:
        style: dict[str, Any] = {"fontsize": 10, "fontweight": "bold", "color": INK}
        text = axes.text(0.08, total - 0.08, heading, va="top", parse_math=False, **style)
        _fit(text, width - 0.16)
    for row, left, name, entry_color in entries:
        bottom = foot - (row + 0.75) * _LEGEND_ROW
        swatch = Rectangle((left, bottom), 0.12, 0.12, color=entry_color, linewidth=0)
        axes.add_patch(swatch)
        axes.text(left + 0.17, bottom + 0.06, name, va="center", fontsize=8, color=INK, parse_math=False)
    axes.set_xlim(0, width)
    axes.set_ylim(0, total)
    axes.set_aspect("auto")
    return figure


def _place_legend(legend: Sequence[tuple[str, str]], width: float) -> list[tuple[int, float, str, str]]:
    """Return row, left edge in inches, name and color of each entry, in rows of at most `width` inches."""
    shown = [*legend[:_MAX_ENTRIES], *([("…", "white")] if len(legend) > _MAX_ENTRIES else [])]
    entries, row, left = [], 0, 0.08
    for name, color in shown:
        needed = 0.35 + 0.085 * len(name)  # a wide character of 8 points
        if left > 0.08 and left + needed > width:
            row, left = row + 1, 0.08
        entries.append((row, left, name, color))
        left += needed
    return entries


def _fit(text: "Text", width: float) -> None:
    """Reduce the font size of a text that is wider than `width` inches."""
    figure: Any = text.figure
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .*missing")  # `render` handles missing glyphs
        text_width = text.get_window_extent(figure.canvas.get_renderer()).width / figure.dpi
    if text_width > width:
        text.set_fontsize(float(text.get_fontsize()) * width / text_width)


def _write(axes: "Axes", x: float, y: float, title: str, color: str, cell: float) -> None:
    longest = max(map(len, title.split("\n")))
    fitting = 21 * cell / _CELL  # about 21 characters fit above an image
    size = min(7.5, 7.5 * fitting / max(longest, 1))
    style: dict[str, Any] = {"fontsize": size, "color": color, "linespacing": 1.1}
    axes.text(x, y, title, ha="center", va="baseline", parse_math=False, **style)


def _displayable(images: Tensor) -> NDArray[np.uint8]:
    images = images.detach()
    if images.shape[1] != 3:
        images = images[:, :1].expand(-1, 3, -1, -1)
    if images.dtype != torch.uint8:
        images = images.float().nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).cpu().numpy()
    return pixels
