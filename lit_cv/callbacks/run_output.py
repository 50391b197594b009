"""Where the figures of a run go, and what may not happen on the way."""

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
    """Return the folder of the run, `None` when nothing is logged to files.

    Unlike `trainer.log_dir` it speaks to no other process, so that one of them may ask alone.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger | MetricsCSVLogger):
            return Path(logger.log_dir)
    return None


def figures_wanted(trainer: L.Trainer) -> bool:
    """Return whether this run leaves figures behind; the answer is the same on every rank."""
    return trainer.state.fn == "fit" and run_folder(trainer) is not None  # a dry run's loggers have no folder


def class_names(trainer: L.Trainer, pl_module: L.LightningModule, classes: int | None = None) -> list[str] | None:
    """Return the names of the classes, from the DataModule or else the module, if as many as asked."""
    for names in (data_of(trainer).class_names, module_extras(pl_module).class_names):
        if isinstance(names, list | tuple) and names and classes in (None, len(names)):
            return [str(name) for name in names]
    return None


def plain_names(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return boxes and masks under the names of modules with one task; of several tasks, the first of each kind.

    Args:
        outputs: What `predict_step` gave, the names with `TASK_` before them where there are several tasks.
    """
    found = dict(outputs)
    for kind in ("boxes", "box_labels", "scores", "masks", "confidence"):
        own = [value for name, value in outputs.items() if name.endswith(f"_{kind}")]
        if kind not in found and own:
            found[kind] = own[0]
    return found


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Keep an error in `what` from ending a run; it is logged, with its traceback where the system did not cause it.

    A figure is worth less than the hours of training that an error in it would cost.
    """
    try:
        yield
    except OSError as error:
        log.warning("%s failed; the run goes on: %s.", what, " ".join(str(error).split()).rstrip("."))
    except Exception:
        log.warning("%s failed; the run goes on.", what, exc_info=True)


def publish(trainer: L.Trainer, figure: "Figure", name: str, step: int) -> None:
    """Write a figure to `NAME.png` in the run's folder and to TensorBoard.

    Args:
        trainer: The Trainer, with its loggers.
        figure: The figure.
        name: Name of the file and of the tag.
        step: Optimizer step that it shows.
    """
    picture = render(figure)
    folder = run_folder(trainer)
    if folder is not None:
        save_png(picture, folder / f"{name}.png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            experiment: Any = logger.experiment
            experiment.add_image(name, picture, step, dataformats="HWC")


def write_tables(trainer: L.Trainer) -> None:
    """Write the rows of `metrics.csv` that are complete."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSVLogger):
            logger.save()
