"""Summary figure and hyperparameter log at the end of a run."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lit_cv.callbacks.monitored import monitor_and_mode
from lit_cv.callbacks.run_output import figures_wanted, guarded, run_folder
from lit_cv.contracts import as_module, datamodule_of
from lit_cv.figures import History, draw_training_curves
from lit_cv.metrics_csv import MetricsCSVLogger

__all__ = ["TrainingCurves"]

_MAX_SECONDS = 1e10  # 300 years; larger values in a checkpoint are invalid


class TrainingCurves(L.Callback):
    """Draws `training_curves.png` from the run's `metrics.csv` when training ends, even after an error.

    The figure shows losses, the monitored metric with its best epoch, further metrics, the learning rate of every
    logged step, and a summary. The loggers get the best and the final value of the metric (`best_val_acc`,
    `final_val_acc`), so that runs can be sorted by them; in TensorBoard's HParams tab they stand beside the module's
    hyperparameters.
    """

    def __init__(self) -> None:
        self._started = 0.0
        self._seconds_before = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the figure and log the hyperparameters."""
        self._summarize(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw the figure of a run that ends early."""
        self._summarize(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of training so far."""
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seconds of the resumed run, if the checkpoint holds a valid number."""
        seconds = state_dict.get("seconds") if isinstance(state_dict, dict) else None
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < _MAX_SECONDS:
            self._seconds_before = float(seconds)

    def _seconds(self) -> float:
        return self._seconds_before + (time.monotonic() - self._started if self._started else 0.0)

    def _summarize(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (trainer.is_global_zero and figures_wanted(trainer) and self._started):
            return
        with guarded("Drawing the training curves"):
            folder = None
            for logger in trainer.loggers:
                if isinstance(logger, MetricsCSVLogger):
                    logger.finalize("success")  # writes the last row
                    folder = run_folder(trainer)
            if folder is None or not (folder / "metrics.csv").is_file():
                return
            if not History.read(folder / "metrics.csv").names:
                return  # stopped before anything was logged
            monitor, mode = monitor_and_mode(trainer, pl_module)
            if monitor is None:  # nothing is chosen, and the figure shows what a choice would have gained
                module = as_module(pl_module)
                monitor, mode = (module.displayed, module.mode) if module.displayed else ("val_loss", "min")
            history = draw_training_curves(
                folder / "metrics.csv",
                folder / "training_curves.png",
                monitor,
                "max" if mode == "max" else "min",
                facts=self._facts(pl_module, trainer),
                heading=_heading(pl_module, trainer),
            )
            _log_hyperparameters(trainer, pl_module, history, monitor, mode)

    def _facts(self, pl_module: L.LightningModule, trainer: L.Trainer) -> dict[str, str]:
        seconds = self._seconds()
        parameters = list(pl_module.parameters())
        total = sum(p.numel() for p in parameters)
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        size = _compact(total) if trained == total else f"{_compact(total)} ({_compact(trained)} trained)"
        device = pl_module.device.type
        if trainer.world_size > 1:
            device = f"{trainer.world_size} x {device}"
        return {"time": _duration(seconds), "parameters": size, "device": f"{device}, {trainer.precision}"}


def _heading(pl_module: L.LightningModule, trainer: L.Trainer) -> str:
    parts = [type(pl_module).__name__, pl_module.hparams.get("backbone")]
    if (datamodule := datamodule_of(trainer)) is not None:
        parts.append(type(datamodule).__name__)
    return " · ".join(str(part) for part in parts if part)


def _log_hyperparameters(
    trainer: L.Trainer, pl_module: L.LightningModule, history: History, monitor: str, mode: str
) -> None:
    best = history.best(monitor, mode)
    metrics = {f"best_{monitor}": best[0], f"final_{monitor}": history.last(monitor)} if best else {}
    if not metrics and (loss := history.last("train_loss")) is not None:
        metrics = {"final_train_loss": loss}
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSVLogger) or not metrics:
            continue
        with guarded(f"Sending the best metric to {type(logger).__name__}"):
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams({**pl_module.hparams}, metrics, step=trainer.global_step)
            else:
                logger.log_metrics({k: v for k, v in metrics.items() if v is not None}, step=trainer.global_step)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes} min {remainder:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _compact(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
