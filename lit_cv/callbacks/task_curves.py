"""The picture of how several tasks got on together."""

from collections.abc import Mapping

import lightning as L

from lit_cv.callbacks.run_output import figures_wanted, guarded, run_folder
from lit_cv.contracts import module_extras
from lit_cv.figures import draw_task_curves
from lit_cv.metrics_csv import MetricsCSVLogger

__all__ = ["TaskCurves"]


class TaskCurves(L.Callback):
    """Draws `task_curves.png` from the run's `metrics.csv` when training ends, however it ends.

    For every task its raw loss, its main metric and its weight, and under uncertainty weighting its sigma. It works
    for every module with a dict `tasks`, each with the name of a metric as `score`, and does nothing for others.
    """

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw."""
        self._draw(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw what there is of a run that ends early."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tasks = module_extras(pl_module).tasks
        if not (isinstance(tasks, Mapping) and tasks and trainer.is_global_zero and figures_wanted(trainer)):
            return
        folder = run_folder(trainer)
        with guarded("Drawing the curves of the tasks"):
            for logger in trainer.loggers:
                if isinstance(logger, MetricsCSVLogger):
                    logger.finalize("success")  # the last row is kept back until then
            if folder is None or not (folder / "metrics.csv").is_file():
                return
            scores = {name: getattr(task, "score", None) for name, task in tasks.items()}
            weighting = pl_module.hparams.get("weighting")
            heading = f"{type(pl_module).__name__} · {', '.join(tasks)} · weighting: {weighting}"
            draw_task_curves(folder / "metrics.csv", folder / "task_curves.png", scores, heading)
