"""Tables of the scores of each class in detection and segmentation."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning as L

from lit_cv.callbacks.monitored import is_better, monitor_and_mode
from lit_cv.callbacks.periodic_figure import PeriodicFigure
from lit_cv.callbacks.run_output import publish_table
from lit_cv.callbacks.table_log import Cell, Table
from lit_cv.contracts import as_checkpoint, class_lists, datamodule_of, module_extras
from lit_cv.metrics.detection import metric_names

__all__ = ["ClassScores"]

_SCORES = {
    "object_metrics": ("box_classes", ("ap", "ap50", "mask_ap", "mask_ap50")),
    "pixel_metrics": ("mask_classes", ("iou",)),
}


class ClassScores(PeriodicFigure):
    """Writes the scores of each class in the best epoch's validation as tables.

    `object_metrics.csv` in the run's folder has the average precision of each class of objects, and of its masks if
    they are compared; `pixel_metrics.csv` has the intersection over union of each class of pixels. The loggers get the
    same tables. Modules that log `val_ap_CLASS` or `val_iou_CLASS`, also with the prefix `TASK_`, have such scores; for
    others it does nothing.

    Args:
        every_n_seconds: During training, minimum time between two tables of a new best epoch.
    """

    what: ClassVar[str] = "Writing the scores of the classes"

    def __init__(self, every_n_seconds: float = 120.0) -> None:
        super().__init__(every_n_seconds)

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Do nothing: the scores are those of all batches."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the scores if this epoch is the best so far."""
        if not self.active or trainer.sanity_checking:
            return
        monitor, mode = monitor_and_mode(trainer, pl_module)
        value = trainer.callback_metrics.get(monitor or "")
        best = as_checkpoint(trainer.checkpoint_callback).best_model_score
        if value is None or is_better(float(value), None if best is None else float(best), mode):
            lists = class_lists(datamodule_of(trainer), "box_classes", "mask_classes")
            tasks = module_extras(pl_module).tasks
            metrics = {name: float(score) for name, score in trainer.callback_metrics.items()}
            self.keep((_tables(metrics, lists, [*tasks] if isinstance(tasks, Mapping) else []), trainer.global_step))
        super().on_validation_end(trainer, pl_module)

    def draw(self, trainer: L.Trainer, pl_module: L.LightningModule, kept: Any) -> None:
        """Write the tables of the best epoch."""
        tables, step = kept
        for name, table in tables.items():
            publish_table(trainer, table, name, step)


def _tables(metrics: Mapping[str, float], lists: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> dict[str, Table]:
    """Return the tables by name, with a row for each class and a column for each score that any class has."""
    tables = {}
    for task in ("", *(f"{name}_" for name in tasks)):
        for name, (attribute, scores) in _SCORES.items():
            classes = lists.get(attribute, [])
            columns: dict[str, list[Cell]] = {}
            for score in scores:
                values = [metrics.get(f"val_{task}{score}_{part}") for part in metric_names(classes)]
                if any(value is not None for value in values):
                    columns[score] = [None if value is None or value != value else round(value, 6) for value in values]
            if columns:
                rows: list[list[Cell]] = [list(row) for row in zip(classes, *columns.values(), strict=True)]
                tables[f"{task}{name}"] = Table(["class", *columns], rows)
    return tables
