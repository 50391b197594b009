"""Output of figures and tables to a run's folder and its loggers, with error handling."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lit_cv.atomic_files import write_text
from lit_cv.callbacks.error_guard import guarded
from lit_cv.callbacks.figure_log import log_figure
from lit_cv.callbacks.logger_senders import has_loggers
from lit_cv.callbacks.table_log import Table, log_table
from lit_cv.contracts import data_of, module_extras
from lit_cv.csv_tables import csv_text
from lit_cv.figures import render, save_png
from lit_cv.metrics_csv import MetricsCSVLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "class_names",
    "figures_wanted",
    "guarded",
    "plain_names",
    "publish",
    "publish_table",
    "run_folder",
    "write_tables",
]


def run_folder(trainer: L.Trainer) -> Path | None:
    """Return the folder of the run, `None` if nothing is logged to files.

    Unlike `trainer.log_dir` it does not communicate with other ranks, so a single rank may call it.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger | MetricsCSVLogger):
            return Path(logger.log_dir)
    return None


def figures_wanted(trainer: L.Trainer) -> bool:
    """Return whether this run writes figures; the result is the same on all ranks."""
    return trainer.state.fn == "fit" and has_loggers(trainer)


def class_names(trainer: L.Trainer, pl_module: L.LightningModule, classes: int | None = None) -> list[str] | None:
    """Return the class names of the DataModule, or else of the module, if there are any and `classes` of them."""
    for names in (data_of(trainer).class_names, module_extras(pl_module).class_names):
        if isinstance(names, list | tuple) and names and classes in (None, len(names)):
            return [str(name) for name in names]
    return None


def plain_names(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return boxes and masks without the prefix `TASK_`; of several tasks, the first of each kind.

    `masks` is a tensor, the classes of pixels. A list of masks belongs to the boxes and becomes `object_masks`.

    Args:
        outputs: Outputs of `predict_step`, prefixed with `TASK_` in modules with several tasks.
    """
    plain = dict(outputs)
    if (key := next((name for name in outputs if name == "boxes" or name.endswith("_boxes")), None)) is not None:
        masks = outputs.get(key.removesuffix("boxes") + "masks")
        plain |= {"object_masks": masks} if isinstance(masks, list) else {}
    plain = {name: value for name, value in plain.items() if name != "masks" or isinstance(value, Tensor)}
    for kind in ("boxes", "box_labels", "scores", "masks", "confidence"):
        prefixed = [
            value
            for name, value in outputs.items()
            if name.endswith(f"_{kind}") and (kind != "masks" or isinstance(value, Tensor))
        ]
        if kind not in plain and prefixed:
            plain[kind] = prefixed[0]
    return plain


def publish(trainer: L.Trainer, figure: "Figure", name: str, step: int, stage: Literal["train", "val"] = "val") -> None:
    """Write a figure to `NAME.png` in the run's folder, if there is one, and to the loggers as `STAGE/NAME`.

    Args:
        trainer: The Trainer, with its loggers.
        figure: The figure.
        name: Name of the file; loggers get it without the prefix `STAGE_`.
        step: Optimizer step of the figure.
        stage: Where its images come from.
    """
    pixels = render(figure)
    folder = run_folder(trainer)
    if folder is not None:
        save_png(pixels, folder / f"{name}.png")
    log_figure(trainer, f"{stage}/{name.removeprefix(f'{stage}_')}", pixels, step)


def publish_table(trainer: L.Trainer, table: Table, name: str, step: int) -> None:
    """Write a table to `NAME.csv` in the run's folder, if there is one, and to the loggers as `val/NAME`.

    Args:
        trainer: The Trainer, with its loggers.
        table: The table.
        name: Name of the file; no figure of a logger may have it.
        step: Optimizer step of the table.
    """
    folder = run_folder(trainer)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.csv", csv_text([table.columns, *table.rows]), "the table", sync=False)
    log_table(trainer, f"val/{name}", table, step)


def write_tables(trainer: L.Trainer) -> None:
    """Write the complete rows of `metrics.csv`."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSVLogger):
            logger.save()
