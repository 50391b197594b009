"""One run of a study: a fit in its own folder, which resumes after an interruption."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger

from lit_cv import callbacks
from lit_cv.contracts import as_callback
from lit_cv.errors import TRAINER, argument
from lit_cv.metrics_csv import MetricsCSVLogger
from lit_cv.running.arguments import prepare_run
from lit_cv.running.invocation import invocation
from lit_cv.running.tensorboard_log import RunTensorBoardLogger
from lit_cv.running.training import LitCLI
from lit_cv.studies.run_callbacks import LastCheckpoint, StepReport, TrainingClock

__all__ = ["StudyRun", "quiet_runs"]

_EVALUATIONS = (callbacks.EmbeddingEvaluation, callbacks.OnlineProbe)  # they use labels and take time


class StudyRun(LitCLI):
    """Fits like `lit-cv fit`, but into a given folder and without a progress bar.

    Args:
        args: Options of `fit`.
        folder: Folder of the run; it is resumed from a checkpoint in this folder.
        lean: Whether to only train: no validation, no figures, and only the last checkpoint.
        only_build: Whether to build the model, the data and the Trainer without running them.
        prepare_data: Called with the DataModule before its setup.
        check_model: Called with the model before training.
        report: Called with the number of optimizer steps taken.
    """

    def __init__(
        self,
        args: Sequence[str],
        folder: Path,
        lean: bool = False,
        only_build: bool = False,
        prepare_data: Callable[[Any], None] | None = None,
        check_model: Callable[[Any], None] | None = None,
        report: Callable[[int], None] | None = None,
    ) -> None:
        self.folder, self.lean, self.only_build = folder, lean, only_build
        self.clock = TrainingClock()
        self._prepare_data, self._check_model, self._report = prepare_data, check_model, report
        last = folder / "checkpoints" / "last.ckpt"
        resume = ["--ckpt_path", str(last)] if last.is_file() and not only_build else []
        quiet = [f"--trainer.{name}=false" for name in ("enable_progress_bar", "enable_model_summary")]
        devices = "--trainer.devices=1"  # more devices would start this program once for each of them
        with invocation(["fit", *args]):
            args = ["fit", devices, *args, *quiet, f"--trainer.default_root_dir={folder}", *resume]
            super().__init__(*prepare_run(args))

    def instantiate_classes(self) -> None:
        """Build the model, the data and the Trainer, and call `check_model` and `prepare_data`."""
        super().instantiate_classes()
        if self.trainer.world_size > 1:
            raise ValueError(
                f"kfold and compare use one device per run, not {self.trainer.world_size}: leave "
                f"{argument('devices', TRAINER)} and {argument('num_nodes', TRAINER)} out."
            )
        if self._check_model is not None:
            self._check_model(self.model)
        if self._prepare_data is not None:
            self._prepare_data(self.datamodule)

    def _callbacks(self, config: dict[str, Any], fitting: bool) -> list[L.Callback]:
        report = [StepReport(self._report)] if self._report else []
        if not self.lean:
            return [*super()._callbacks(config, fitting), self.clock, *report]
        by_user = config["callbacks"] or []
        defaults = [self._get(self.config_init, key) for key in ("non_finite", "ema")]
        views = [c for c in self._embedding_callbacks(by_user) if isinstance(c, callbacks.ContrastiveAugmentation)]
        chosen = [
            c for c in [*defaults, *by_user, *views] if not isinstance(c, _EVALUATIONS) and as_callback(c).enabled
        ]
        config["enable_checkpointing"] = True
        return [*chosen, self.clock, *report, LastCheckpoint()]

    def _loggers(self, root: str | None) -> list[Logger]:
        step = self.checkpoint.step if self.checkpoint else None
        table = MetricsCSVLogger(str(self.folder), resume_step=step)
        # Its folder becomes `trainer.log_dir`.
        board = RunTensorBoardLogger(
            self.folder.parent, name="", version=self.folder.name, default_hp_metric=False, purge_step=step
        )
        return [table] if self.lean else [board, table]

    def after_fit(self) -> None:
        """Log nothing: the study reports the result."""

    def _run_subcommand(self, subcommand: str) -> None:
        if not self.only_build:
            super()._run_subcommand(subcommand)


@contextmanager
def quiet_runs(level: int = logging.WARNING) -> Iterator[None]:
    """Hide log messages of runs below a level: a study prints one line for each run."""
    loggers = [logging.getLogger(name) for name in ("lit_cv", "lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
