"""Curves of several tasks in one figure."""

from collections.abc import Mapping

import lightning as L

from lit_cv.callbacks.run_output import figures_wanted, guarded, run_folder
from lit_cv.contracts import module_extras
from lit_cv.figures import draw_task_curves
from lit_cv.metrics_csv import MetricsCSVLogger

__all__ = ["TaskCurves"]


class TaskCurves(L.Callback):
    """Draws `task_curves.png` from the run's `metrics.csv` when training ends, even after an error.

    The figure shows each task's raw loss, main metric and weight, and with uncertainty weighting its sigma. It works
    for every module with a dict `tasks` whose values name a metric as `score`, and does nothing for others.
    """

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the figure."""
        self._draw(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw the figure of a run that ends early."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tasks = module_extras(pl_module).tasks
        if not (isinstance(tasks, Mapping) and tasks and trainer.is_global_zero and figures_wanted(trainer)):
            return
        folder = run_folder(trainer)
        with guarded("Drawing the curves of the tasks"):
            for logger in trainer.loggers:
                if isinstance(logger, MetricsCSVLogger):
                    logger.finalize("success")  # writes the last row
            if folder is None or not (folder / "metrics.csv").is_file():
                return
            scores = {name: getattr(task, "score", None) for name, task in tasks.items()}
            weighting = pl_module.hparams.get("weighting")
            heading = f"{type(pl_module).__name__} · {', '.join(tasks)} · weighting: {weighting}"
            draw_task_curves(folder / "metrics.csv", folder / "task_curves.png", scores, heading)
