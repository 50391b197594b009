"""Figures of data, models and runs: plain matplotlib drawings, without Lightning.

Every function returns a matplotlib `Figure` (no pyplot, no global state); `render` converts it to pixels, and
`save_png` writes them to a file. matplotlib is imported when the first figure is drawn, torch with the functions that
draw images.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_cv.figures.canvas import render, save_png
    from lit_cv.figures.classification import confusion_figure, precision_recall_figure
    from lit_cv.figures.curves import draw_training_curves
    from lit_cv.figures.domains import DomainMap, domain_figure, map_embedding
    from lit_cv.figures.history import History, short_number
    from lit_cv.figures.images import image_grid, label_titles, short_name
    from lit_cv.figures.lr_curve import lr_curve_figure
    from lit_cv.figures.objects import class_color, draw_objects, mask_legend, object_titles
    from lit_cv.figures.task_curves import draw_task_curves

__all__ = [
    "DomainMap",
    "History",
    "class_color",
    "confusion_figure",
    "domain_figure",
    "draw_objects",
    "draw_task_curves",
    "draw_training_curves",
    "image_grid",
    "label_titles",
    "lr_curve_figure",
    "map_embedding",
    "mask_legend",
    "object_titles",
    "precision_recall_figure",
    "render",
    "save_png",
    "short_name",
    "short_number",
]

_SUBMODULES = {
    "canvas": "render save_png",
    "classification": "confusion_figure precision_recall_figure",
    "curves": "draw_training_curves",
    "domains": "DomainMap domain_figure map_embedding",
    "history": "History short_number",
    "images": "image_grid label_titles short_name",
    "lr_curve": "lr_curve_figure",
    "objects": "class_color draw_objects mask_legend object_titles",
    "task_curves": "draw_task_curves",
}


def __getattr__(name: str) -> Any:
    for file, names in _SUBMODULES.items():
        if name in names.split():
            return getattr(import_module(f"lit_cv.figures.{file}"), name)
    raise AttributeError(f"module 'lit_cv.figures' has no attribute {name!r}")
