"""Output of figures to a run's folder and TensorBoard, with error handling."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lit_cv.contracts import data_of, module_extras
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
    "run_folder",
    "write_tables",
]

log = logging.getLogger("lit_cv")


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
    return trainer.state.fn == "fit" and run_folder(trainer) is not None  # loggers of a dry run have no folder


def class_names(trainer: L.Trainer, pl_module: L.LightningModule, classes: int | None = None) -> list[str] | None:
    """Return the class names of the DataModule, or else of the module, if there are any and `classes` of them."""
    for names in (data_of(trainer).class_names, module_extras(pl_module).class_names):
        if isinstance(names, list | tuple) and names and classes in (None, len(names)):
            return [str(name) for name in names]
    return None


def plain_names(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return boxes and masks without the prefix `TASK_`; of several tasks, the first of each kind.

    Args:
        outputs: Outputs of `predict_step`, prefixed with `TASK_` in modules with several tasks.
    """
    plain = dict(outputs)
    for kind in ("boxes", "box_labels", "scores", "masks", "confidence"):
        prefixed = [value for name, value in outputs.items() if name.endswith(f"_{kind}")]
        if kind not in plain and prefixed:
            plain[kind] = prefixed[0]
    return plain


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Log errors in the block instead of ending the run, with a traceback unless it is an OSError.

    A failed figure must not cost hours of training.

    Args:
        what: Subject of the log message, such as "Drawing the curves".
    """
    try:
        yield
    except OSError as error:
        log.warning("%s failed; the run continues: %s.", what, " ".join(str(error).split()).rstrip("."))
    except Exception:
        log.warning("%s failed; the run continues.", what, exc_info=True)


def publish(trainer: L.Trainer, figure: "Figure", name: str, step: int) -> None:
    """Write a figure to `NAME.png` in the run's folder and to TensorBoard.

    Args:
        trainer: The Trainer, with its loggers.
        figure: The figure.
        name: Name of the file and of the tag.
        step: Optimizer step of the figure.
    """
    pixels = render(figure)
    folder = run_folder(trainer)
    if folder is not None:
        save_png(pixels, folder / f"{name}.png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            experiment: Any = logger.experiment
            experiment.add_image(name, pixels, step, dataformats="HWC")


def write_tables(trainer: L.Trainer) -> None:
    """Write the complete rows of `metrics.csv`."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSVLogger):
            logger.save()
