import pytest
import torch

from lit_cv.figures import confusion_figure, render
from lit_cv.figures.kfold import kfold_figure

pytestmark = pytest.mark.draws


@pytest.mark.parametrize(("classes", "lines"), [(3, 4), (30, 31), (31, 0)])
def test_cell_borders_are_drawn_for_few_classes(classes: int, lines: int) -> None:
    axes = confusion_figure(torch.full((classes, classes), 2)).axes[0]
    for axis in (axes.xaxis, axes.yaxis):
        assert len(axis.get_minorticklocs()) == lines


def test_cells_of_equal_color_are_separated() -> None:
    for figure, place in (
        (confusion_figure(torch.full((2, 2), 0)), 0),
        (kfold_figure({"val_acc": [0.5, 0.6]}, torch.full((2, 2), 0)), 1),
    ):
        picture = render(figure)
        box = figure.axes[place].get_window_extent()
        row = picture[len(picture) - int(box.y0 + 0.25 * box.height), int(box.x0) + 5 : int(box.x1) - 5]
        other = (row != row[0]).any(-1).nonzero()[0]
        assert 1 <= len(other) <= 3
        assert abs(int(other[0]) - len(row) / 2) <= 3
