"""A grid of images with titles."""

import warnings
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_cv.figures.canvas import INK, draws_names, new_figure
from lit_cv.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = ["image_grid", "label_titles", "short_name"]

_CELL = 1.2  # inches that an image takes
_LINE = 0.135  # inches that a line of a title takes
_FLOOR = 0.05  # weight below which a label of a mixture goes unnamed


def short_name(name: object, length: int = 18) -> str:
    """Return a name in one line of at most `length` characters.

    Example:
        >>> short_name("a class name far too long to print", 12)
        'a class nam…'
    """
    text = printable(" ".join(str(name).split()), lines=False)
    return text if len(text) <= length else text[: length - 1] + "…"


def label_titles(labels: Tensor, class_names: Sequence[str] | None = None) -> list[str]:
    r"""Return a title for each label, as it is taught to the model.

    Args:
        labels: (N,) int64, -1 for none; or (N, K) weights: mixtures, whose rows sum to 1, are named with
            their two greatest weights in percent, several labels by their names.
        class_names: Names of the classes; numbers stand in for them when there are none.

    Example:
        >>> label_titles(torch.tensor([1, -1]), ["cat", "dog"])
        ['dog', 'unlabeled']
        >>> label_titles(torch.tensor([[0.7, 0.3], [0.0, 1.0]]), ["cat", "dog"])
        ['cat (70 %)\ndog (30 %)', 'dog']
        >>> label_titles(torch.tensor([[1.0, 1.0]]), ["cat", "dog"])
        ['cat, dog']
    """

    def name(index: int) -> str:
        known = class_names is not None and 0 <= index < len(class_names)
        return short_name(class_names[index] if known and class_names is not None else index)

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


@draws_names
def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    heading: str = "",
    colors: Sequence[str] | None = None,
    columns: int = 8,
    cell: float = _CELL,
) -> "Figure":
    """Draw images side by side.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1]; the first channel alone is shown unless there are 3.
        titles: A title of one or two lines for each image.
        heading: What stands above the grid, broken into lines where it is too long for one.
        colors: Color of each title.
        columns: Images in a row, at most.
        cell: Width of an image in inches.

    Raises:
        ValueError: If there are no images, or they have another shape.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images have the shape {tuple(images.shape)}: a grid takes (N, C, H, W), N at least 1.")
    pictures = _displayable(images)
    titles = [printable(title) for title in titles or ()]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    height = cell * pictures.shape[1] / pictures.shape[2]
    step_x, step_y = cell + 0.08, height + _LINE * lines + 0.1
    width = columns * step_x + 0.08
    heading = "\n".join(wrap(printable(heading), max(12, int(11 * width))))  # about 11 characters fit into an inch
    head = 0.3 + 0.17 * heading.count("\n") if heading else 0.0
    total = rows * step_y + head + 0.08

    # One pair of axes in inches for everything: a pair for each image takes ten times as long to draw.
    figure = new_figure(width, total)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    for index, picture in enumerate(pictures):
        left = 0.08 + index % columns * step_x
        bottom = total - head - (index // columns + 1) * step_y + 0.05
        axes.imshow(picture, extent=(left, left + cell, bottom, bottom + height), interpolation="auto")
        if index < len(titles):
            color = colors[index] if colors is not None else INK
            _write(axes, left + cell / 2, bottom + height + 0.045, titles[index], color, cell)
    if heading:
        style: dict[str, Any] = {"fontsize": 10, "fontweight": "bold", "color": INK}
        text = axes.text(0.08, total - 0.08, heading, va="top", parse_math=False, **style)
        _fit(text, width - 0.16)
    axes.set_xlim(0, width)
    axes.set_ylim(0, total)
    axes.set_aspect("auto")
    return figure


def _fit(text: "Text", width: float) -> None:
    """Make a text smaller that is wider than this, in inches."""
    figure: Any = text.figure
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .*missing")  # which is seen to when the figure is drawn
        taken = text.get_window_extent(figure.canvas.get_renderer()).width / figure.dpi
    if taken > width:
        text.set_fontsize(float(text.get_fontsize()) * width / taken)


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
    pictures: NDArray[np.uint8] = images.permute(0, 2, 3, 1).cpu().numpy()
    return pictures
