"""LightningCLI with the callbacks, loggers and run folders of this project."""

import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

import datamodules  # noqa: F401 - short class names are found only for imported classes
from lit_cv import callbacks
from lit_cv.callbacks.run_output import run_folder
from lit_cv.checkpoint_io import AtomicCheckpointIO
from lit_cv.contracts import as_checkpoint, module_extras
from lit_cv.errors import FIT, TRAINER, VoidOptionError, announce_parts, argument, option, setting
from lit_cv.metrics_csv import MetricsCSVLogger
from lit_cv.modules import BaseModule
from lit_cv.modules.size_guard import check_network_size
from lit_cv.plain_values import read_yaml
from lit_cv.running.built_parts import GROUPS, built_parts
from lit_cv.running.cuda_check import short_cuda_check
from lit_cv.running.error_origin import is_own_error
from lit_cv.running.import_policy import restricted_imports
from lit_cv.running.parts import DataInstantiator, Parser, SaveConfig
from lit_cv.running.precision import is_slow_in_bfloat16
from lit_cv.running.recipe_options import RecipeOptions, drop_option
from lit_cv.running.runs import Checkpoint, claim_run, make_run_folder, remove_unused_run
from lit_cv.running.support_callbacks import add_support_callbacks
from lit_cv.running.tensorboard_log import RunTensorBoardLogger
from lit_cv.running.trainer_checks import check_trainer_options
from lit_cv.trust import trust_option

__all__ = ["LitCLI"]

log = logging.getLogger("lit_cv")


class LitCLI(LightningCLI):
    """LightningCLI with this project's callbacks, loggers and run folders.

    Args:
        args: Arguments from `lit_cv.running.arguments.prepare`.
        checkpoint: The checkpoint to resume or evaluate.
        recipe: Options set only by recipes; those that conflict with the user's choices are dropped.
        evaluate_embedding: Whether to evaluate the embedding of any module.
    """

    def __init__(
        self,
        args: list[str],
        checkpoint: Checkpoint | None,
        recipe: RecipeOptions | None = None,
        evaluate_embedding: bool = False,
    ) -> None:
        self.checkpoint, self.recipe = checkpoint, dict(recipe or {})
        self.evaluate_embedding = evaluate_embedding
        self._merged = args[2] if args[1:2] == ["--config"] else None
        self._verb = args[0]
        self._starts_run = False
        self._new_run: Path | None = None
        Parser.configuration = read_yaml(Path(self._merged)) if self._merged else {}
        with restricted_imports(Parser.configuration):
            super().__init__(
                BaseModule,
                L.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=SaveConfig,
                save_config_kwargs={"overwrite": True},
                seed_everything_default=0,
                parser_class=Parser,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=args,
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return only the requested verb: building a parser for every verb is slow."""
        return {verb: skipped for verb, skipped in super().subcommands().items() if verb == self._verb}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add an option group for each callback that every run has."""
        for group, cls in GROUPS.items():
            if group != "predictions":
                parser.add_lightning_class_args(cls, group)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # no checkpoint runs code
        if subcommand == "predict":
            parser.add_lightning_class_args(GROUPS["predictions"], "predictions")
        verb = "knn" if self.evaluate_embedding else subcommand
        parser.usage = f"lit-cv {verb} [--config RECIPE] [--model CLASS] [--data CLASS] [options]"
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the arguments, without Lightning's warning about `sys.argv`."""
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]
        finally:
            if self._merged:
                Path(self._merged).unlink(missing_ok=True)
        announce_parts(built_parts(self.config[self._verb].as_dict()))

    def _parse_ckpt_path(self) -> None:
        """Do nothing: the configuration already contains the checkpoint's hyperparameters."""

    def _add_instantiators(self) -> None:
        super()._add_instantiators()
        self.parser.add_instantiator(DataInstantiator(cli=self, key="data"), L.LightningDataModule, prepend=True)

    def instantiate_classes(self) -> None:
        """Build the model, the data and the Trainer; their errors are raised without the parser's wrapping."""
        while True:
            try:
                super().instantiate_classes()
                break
            except Exception as error:
                cause: BaseException = error
                while cause.__cause__ is not None and not is_own_error(cause):
                    cause = cause.__cause__
                if not self._drop_void_option(cause):
                    raise cause from None
        if self.checkpoint is not None:
            if self.datamodule is not None:
                self.datamodule.checkpoint_path = self.checkpoint.path
            check_network_size(type(self.model), self.model.hparams, self.checkpoint.size, str(self.checkpoint.path))

    def _drop_void_option(self, error: BaseException) -> bool:
        """Drop the option that an error rejects if only a recipe sets it, and return whether it did."""
        config = self.config[self._verb]
        if not isinstance(error, VoidOptionError) or (dropped := drop_option(config, self.recipe, error)) is None:
            return False
        rank_zero_only(log.info)("Dropped from the recipe: %s (%s).", dropped, error.reason)
        announce_parts(built_parts(config.as_dict()))
        return True

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the Trainer with the loggers, progress bar, checkpoints and figures of every run."""
        config = self.trainer_options(**kwargs)
        check_trainer_options(config, fits=self.subcommand == "fit")
        if config["barebones"]:  # which refuses these by default
            for name in ("enable_progress_bar", "enable_model_summary", "enable_checkpointing"):
                config[name] = config[name] or False
        fitting = self.subcommand == "fit" and not config["fast_dev_run"] and not config["barebones"]
        if config["logger"] in (None, True):
            config["logger"] = self._loggers(config["default_root_dir"]) if fitting else False
        if not (fitting and config["logger"]):
            self.save_config_callback = None
        config["callbacks"] = self._callbacks(config, fitting)
        config["plugins"] = [*_as_list(config["plugins"]), AtomicCheckpointIO()]
        trainer = self._instantiate_trainer(config, [])
        _check_world_size(trainer.world_size)
        return trainer

    def trainer_options(self, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of the Trainer, adjusting two options that only a recipe sets.

        The precision becomes the one that suits the network. It is stored in the configuration, so that the run is
        resumed and evaluated in it on any device. `check_val_every_n_epoch` becomes 1 if training has fewer epochs
        than that.
        """
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        name, epochs = "check_val_every_n_epoch", config["max_epochs"]
        if epochs is not None and 0 < epochs < (config[name] or 0):
            too_rare = VoidOptionError(TRAINER, name, config[name], f"training has only {epochs} epochs")
            if self._drop_void_option(too_rare):
                config[name] = self.config[self._verb]["trainer"][name]
        if self.subcommand != "fit" or self.recipe.get("trainer.precision") != "bf16-mixed":
            return config
        backbone = str(self.model.hparams.get("backbone"))
        slow = is_slow_in_bfloat16(backbone, str(config["accelerator"]))
        chosen, other = ("32-true", "bf16-mixed") if slow else ("bf16-mixed", "32-true")
        reason = f"CPUs train the depthwise convolutions of {backbone} slower in bfloat16"
        rank_zero_only(log.info)(
            "Precision %s: %s (%s overrides this).",
            chosen,
            reason if slow else "this device supports bfloat16",
            setting("precision", other, TRAINER),
        )
        self.recipe["trainer.precision"] = config["precision"] = chosen
        self.config[self._verb]["trainer"]["precision"] = chosen
        return config

    def _callbacks(self, config: dict[str, Any], fitting: bool) -> list[L.Callback]:
        user_callbacks: list[L.Callback] = _as_list(config["callbacks"])
        extra: list[L.Callback] = []
        if config["enable_progress_bar"] is not False and not _has(user_callbacks, ProgressBar):
            extra.append(callbacks.RunProgressBar())
        if config["enable_model_summary"] is not False and not _has(user_callbacks, ModelSummary):
            extra.append(callbacks.RunModelSummary())
        for key in ("non_finite", "ema", "early_stopping"):
            callback = self._get(self.config_init, key)
            if callback.enabled and not (key == "non_finite" and _has(user_callbacks, callbacks.NonFiniteGuard)):
                extra.append(callback)
        extra += add_support_callbacks(user_callbacks, continues=fitting and self.checkpoint is not None)
        extra += self._embedding_callbacks(user_callbacks)
        if fitting and module_extras(self.model).adapts is not None:
            extra.append(callbacks.SourceBaseline())
            if not _has(user_callbacks, callbacks.ReverseValidation):
                extra.append(callbacks.ReverseValidation())
        if fitting and config["logger"]:
            extra += [callbacks.LearningRateLog(), callbacks.BatchFigure(), callbacks.ClassificationFigures()]
            extra += [callbacks.Reconstructions(), callbacks.PredictionFigures(), callbacks.ClassScores()]
            extra += [callbacks.TrainingCurves(), callbacks.TaskCurves()]
            if self.model.expects_domains and not _has(user_callbacks, callbacks.DomainEmbedding):
                extra.append(callbacks.DomainEmbedding())
        if self.subcommand == "predict" and not _has(user_callbacks, callbacks.PredictionWriter):
            writer = self._get(self.config_init, "predictions")
            writer.folder = self._folder(config) if writer.folder == Path() else writer.folder
            extra.append(writer)
        if config["enable_checkpointing"] is not False and not _has(user_callbacks, CheckpointCallback):
            config["enable_checkpointing"] = True
            extra.append(self._get(self.config_init, "checkpoint"))
        return extra

    def _embedding_callbacks(self, user_callbacks: list[L.Callback]) -> list[L.Callback]:
        """Return the callbacks that a self-supervised module needs and that the user has not set."""
        extra: list[L.Callback] = []
        if self.model.expects_views and not _has(user_callbacks, callbacks.ContrastiveAugmentation):
            spelled = argument("callbacks", TRAINER)
            log.info("Views: using ContrastiveAugmentation with its defaults (%s changes this).", spelled)
            extra.append(callbacks.ContrastiveAugmentation())
        evaluates = self.model.evaluates_embedding or self.evaluate_embedding
        if evaluates and not _has(user_callbacks, callbacks.EmbeddingEvaluation):
            extra.append(callbacks.EmbeddingEvaluation())
        if self.model.evaluates_embedding and not _has(user_callbacks, callbacks.CollapseWarning):
            extra.append(callbacks.CollapseWarning())
        return extra

    def _loggers(self, root: str | None) -> list[Logger]:
        """Return the loggers for TensorBoard and `metrics.csv`, in a new run folder or that of the resumed run."""
        run = self._continued_run()
        self._starts_run = run is None
        step = self.checkpoint.step if self.checkpoint and run else None
        board = RunTensorBoardLogger(
            save_dir=run.parent.parent if run else root or ".",
            name=run.parent.name if run else "lightning_logs",
            version=run.name if run else None,
            default_hp_metric=False,
            purge_step=step,
        )
        return [board, MetricsCSVLogger(board.log_dir, resume_step=step)]

    def _continued_run(self) -> Path | None:
        """Return the folder of the run to resume; `None` starts a new run, so that later checkpoints are not lost."""
        run = self.checkpoint.run if self.checkpoint else None
        if self.checkpoint is None or run is None or (latest := self.checkpoint.further_step()) is None:
            return run
        rank_zero_only(log.info)(
            "%s is from step %d, but its run continued to step %d: starting a new run, and leaving %s unchanged "
            "(%s resumes that run).",
            self.checkpoint.path,
            self.checkpoint.step,
            latest,
            run,
            setting("ckpt_path", "last", FIT),
        )
        return None

    def _folder(self, config: dict[str, Any]) -> Path:
        """Return the folder for evaluation results: that of the run that wrote the checkpoint."""
        run = self.checkpoint.run if self.checkpoint else None
        return run or Path(config["default_root_dir"] or ".")

    def _run_subcommand(self, subcommand: str) -> None:
        while True:
            try:
                self._run_once(subcommand)
                return
            except VoidOptionError as error:
                if self.trainer.world_size > 1 or self.trainer.global_step or not self._drop_void_option(error):
                    raise
            self._set_seed()
            self.instantiate_classes()

    def _run_once(self, subcommand: str) -> None:
        with self._claimed_folder(), short_cuda_check():
            try:
                super()._run_subcommand(subcommand)
            except BaseException as error:  # includes signals that end the program
                if self.trainer.is_global_zero and self._new_run is not None and self.trainer.global_step == 0:
                    remove_unused_run(self._new_run)
                if self.checkpoint is not None and isinstance(error, Exception) and _while_restoring(error):
                    reason = " ".join((str(error) or type(error).__name__).split())[:300]
                    raise ValueError(f"{self.checkpoint.path} cannot be restored: {reason}") from error
                raise

    @contextmanager
    def _claimed_folder(self) -> Iterator[None]:
        """Make the folder of a new run, and lock the run folder against other processes during training.

        Without this project's loggers, the folder of the checkpoints is locked.
        """
        loggers = [item for item in self.trainer.loggers if isinstance(item, RunTensorBoardLogger | MetricsCSVLogger)]
        writes = bool(loggers) or _has(self.trainer.callbacks, callbacks.RunCheckpoint)  # type: ignore[attr-defined]
        trains = self.subcommand == "fit" and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if not trains or not writes or not self.trainer.is_global_zero:
            yield
            return
        if self._starts_run:
            self._start_run(loggers)
        folder = run_folder(self.trainer) or Path(self.trainer.log_dir or self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        lock = claim_run(folder, None if loggers else f"use another {argument('default_root_dir', TRAINER)}")
        try:
            yield
        finally:
            lock.release()

    def _start_run(self, loggers: Sequence[Logger]) -> None:
        """Make the folder of a new run, and point its loggers to it."""
        for board in loggers:
            if isinstance(board, RunTensorBoardLogger):
                self._new_run = make_run_folder(Path(board.root_dir))
                board._version = self._new_run.name
        for table in loggers:
            if isinstance(table, MetricsCSVLogger) and self._new_run is not None:
                table.folder = self._new_run

    def after_fit(self) -> None:
        """Log the best checkpoint and the command to validate it."""
        if self.trainer.global_step == (self.checkpoint.step if self.checkpoint else 0):
            log.warning(
                "Nothing was trained: epoch %d has reached max_epochs=%s (%s).",
                self.trainer.current_epoch,
                self.trainer.max_epochs,
                argument("max_epochs", TRAINER),
            )
        checkpoint = as_checkpoint(self.trainer.checkpoint_callback)
        best = Path(checkpoint.best_model_path or "")
        if not best.is_file() or not self.trainer.is_global_zero:
            return
        stopping = self.trainer.early_stopping_callback
        if stopping is not None and stopping.stopping_reason_message:
            log.info("Stopped early: %s", stopping.stopping_reason_message.replace(" Signaling Trainer to stop.", ""))
        best = best.relative_to(Path.cwd()) if best.is_relative_to(Path.cwd()) else best
        score = checkpoint.best_model_score
        criterion = f"{checkpoint.monitor} {float(score):.4f}" if score is not None else "the newest"
        log.info("Best checkpoint: %s (%s)", best, criterion)
        if spelled := option("ckpt_path", FIT):
            trust = trust_option(self.model, self.datamodule)
            log.info("Validate it with: lit-cv validate %s %s%s", spelled, best, trust)


def _while_restoring(error: BaseException) -> bool:
    """Return whether an error comes from the content of a checkpoint, not from the options of this run."""
    if isinstance(error, OSError | MisconfigurationException) or (
        isinstance(error, ValueError) and is_own_error(error)
    ):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return any("checkpoint_connector" in frame.filename or frame.name == "configure_model" for frame in frames)


def _check_world_size(world_size: int) -> None:
    """Refuse single-device Trainers in several processes of torchrun: they would all write to one folder."""
    started = int(os.environ.get("WORLD_SIZE", 1)) if TorchElasticEnvironment.detect() else 1
    if started > 1 and world_size == 1:
        raise ValueError(
            f"torchrun started {started} processes, but the Trainer uses one device: set "
            f"{argument('devices', TRAINER)} to --nproc_per_node and {argument('num_nodes', TRAINER)} to --nnodes, or "
            "start without torchrun."
        )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _has(instances: list[L.Callback], cls: type) -> bool:
    return any(isinstance(instance, cls) for instance in instances)
