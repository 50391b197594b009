"""One run of a study: a fit in a folder of its own, which goes on where it was cut off."""

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

__all__ = ["StudyRun", "quietly"]

_JUDGES = (callbacks.EmbeddingEvaluation, callbacks.OnlineProbe)  # they look at labels, and take time


class StudyRun(LitCLI):
    """Fits as `lit-cv fit` does, into a folder, without a progress bar of its own.

    Args:
        args: Options of `fit`.
        folder: Folder of the run. A checkpoint in it is continued.
        lean: Whether the run trains and no more: no validation, no pictures, and the last checkpoint alone.
        only_build: Whether the model, the data and the Trainer are built, but nothing is run.
        prepare_data: Gets the DataModule before it is set up.
        check_model: Gets the model before it is trained.
        report: Gets the number of optimizer steps taken.
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
        one = "--trainer.devices=1"  # several would start this program again, once for each
        with invocation(["fit", *args]):
            args = ["fit", one, *args, *quiet, f"--trainer.default_root_dir={folder}", *resume]
            super().__init__(*prepare_run(args))

    def instantiate_classes(self) -> None:
        """Build the model, the data and the Trainer, and hand the data over to be prepared."""
        super().instantiate_classes()
        if self.trainer.world_size > 1:
            raise ValueError(
                f"each run of kfold and compare takes one device, not {self.trainer.world_size}: leave "
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
        given = config["callbacks"] or []
        own = [self._get(self.config_init, key) for key in ("non_finite", "ema")]
        views = [c for c in self._embedding_callbacks(given) if isinstance(c, callbacks.ContrastiveAugmentation)]
        chosen = [c for c in [*own, *given, *views] if not isinstance(c, _JUDGES) and as_callback(c).enabled]
        config["enable_checkpointing"] = True
        return [*chosen, self.clock, *report, LastCheckpoint()]

    def _loggers(self, root: str | None) -> list[Logger]:
        step = self.checkpoint.step if self.checkpoint else None
        table = MetricsCSVLogger(str(self.folder), resume_step=step)
        # It makes the folder of the run the Trainer's.
        board = RunTensorBoardLogger(
            self.folder.parent, name="", version=self.folder.name, default_hp_metric=False, purge_step=step
        )
        return [table] if self.lean else [board, table]

    def after_fit(self) -> None:
        """Say nothing: the study does."""

    def _run_subcommand(self, subcommand: str) -> None:
        if not self.only_build:
            super()._run_subcommand(subcommand)


@contextmanager
def quietly(level: int = logging.WARNING) -> Iterator[None]:
    """Let only warnings of a run through: what it is and what came out is told in one line."""
    loggers = [logging.getLogger(name) for name in ("lit_cv", "lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
