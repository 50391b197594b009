"""LightningCLI with what every run of this project has."""

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

import datamodules  # noqa: F401 - classes are found by their short names once they are imported
from lit_cv import callbacks
from lit_cv.callbacks.run_output import run_folder
from lit_cv.checkpoint_io import AtomicCheckpointIO
from lit_cv.contracts import as_checkpoint
from lit_cv.errors import FIT, TRAINER, VoidOptionError, announce_parts, argument, option, setting
from lit_cv.metrics_csv import MetricsCSVLogger
from lit_cv.modules import BaseModule
from lit_cv.modules.size_guard import check_network_size
from lit_cv.plain_values import read_yaml
from lit_cv.running.built_parts import GROUPS, built_parts
from lit_cv.running.error_origin import raised_here
from lit_cv.running.given_callbacks import with_support
from lit_cv.running.import_policy import limited_imports
from lit_cv.running.parts import DataInstantiator, Parser, SaveConfig
from lit_cv.running.precision import is_slow_in_bfloat16
from lit_cv.running.recipe_options import RecipeOptions, drop_option
from lit_cv.running.runs import Checkpoint, claim_run, make_run_folder, remove_unused_run
from lit_cv.running.tensorboard_log import RunTensorBoardLogger
from lit_cv.running.trainer_checks import check_trainer_options
from lit_cv.trust import trust_option

__all__ = ["LitCLI"]

log = logging.getLogger("lit_cv")


class LitCLI(LightningCLI):
    """LightningCLI with this project's callbacks, loggers and run folders.

    Args:
        args: Arguments that `lit_cv.running.arguments.prepare` has made.
        checkpoint: The checkpoint that they continue from or evaluate.
        recipe: What recipes alone give: what the user's choices make void of it is dropped.
        evaluate_embedding: Whether the embedding is judged, whatever the module.
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
        with limited_imports(Parser.configuration):
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
        """Return the verb that was asked for: a parser for each would take a part of a second."""
        return {verb: skipped for verb, skipped in super().subcommands().items() if verb == self._verb}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that every run has as groups of options."""
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
        """Parse, without Lightning's warning about the arguments of the process."""
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]
        finally:
            if self._merged:
                Path(self._merged).unlink(missing_ok=True)
        announce_parts(built_parts(self.config[self._verb].as_dict()))

    def _parse_ckpt_path(self) -> None:
        """Do nothing: the checkpoint's hyperparameters are in the configuration already, below the command line."""

    def _add_instantiators(self) -> None:
        super()._add_instantiators()
        self.parser.add_instantiator(DataInstantiator(cli=self, key="data"), L.LightningDataModule, prepend=True)

    def instantiate_classes(self) -> None:
        """Build the model, the data and the Trainer; an error of theirs comes out as they raised it."""
        while True:
            try:
                super().instantiate_classes()
                break
            except Exception as error:
                cause: BaseException = error
                while cause.__cause__ is not None and not raised_here(cause):
                    cause = cause.__cause__
                if not self._gives_way(cause):
                    raise cause from None
        if self.checkpoint is not None:
            if self.datamodule is not None:
                self.datamodule.checkpoint_path = self.checkpoint.path
            check_network_size(type(self.model), self.model.hparams, self.checkpoint.size, str(self.checkpoint.path))

    def _gives_way(self, error: BaseException) -> bool:
        """Drop what an error calls void if a recipe gives it alone; tell whether that was so."""
        config = self.config[self._verb]
        if not isinstance(error, VoidOptionError) or (dropped := drop_option(config, self.recipe, error)) is None:
            return False
        rank_zero_only(log.info)("%s of the recipe is dropped: %s.", dropped, error.reason)
        announce_parts(built_parts(config.as_dict()))
        return True

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the Trainer with what every run has: loggers, progress bar, checkpoints, figures."""
        config = self.trainer_options(**kwargs)
        check_trainer_options(config, fits=self.subcommand == "fit")
        if config["barebones"]:  # which refuses what every run has
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
        _check_processes(trainer.world_size)
        return trainer

    def trainer_options(self, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of the Trainer, with the precision that suits the network where a recipe left it open.

        The configuration gets it, too, so that the run goes on with it, and is evaluated with it, on any device.
        Validation that a recipe has every few epochs comes every epoch where training has fewer.
        """
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        name, epochs = "check_val_every_n_epoch", config["max_epochs"]
        if epochs is not None and 0 < epochs < (config[name] or 0):
            rare = VoidOptionError(TRAINER, name, config[name], f"training has {epochs} epochs")
            if self._gives_way(rare):
                config[name] = self.config[self._verb]["trainer"][name]
        if self.subcommand != "fit" or self.recipe.get("trainer.precision") != "bf16-mixed":
            return config
        backbone = str(self.model.hparams.get("backbone"))
        slow = is_slow_in_bfloat16(backbone, str(config["accelerator"]))
        chosen, other = ("32-true", "bf16-mixed") if slow else ("bf16-mixed", "32-true")
        why = f"processors train {backbone}, of depthwise convolutions, slower in bfloat16"
        rank_zero_only(log.info)(
            "Precision %s: %s (%s takes the other).",
            chosen,
            why if slow else "this device computes in bfloat16",
            setting("precision", other, TRAINER),
        )
        self.recipe["trainer.precision"] = config["precision"] = chosen
        self.config[self._verb]["trainer"]["precision"] = chosen
        return config

    def _callbacks(self, config: dict[str, Any], fitting: bool) -> list[L.Callback]:
        given: list[L.Callback] = _as_list(config["callbacks"])
        extra: list[L.Callback] = []
        if config["enable_progress_bar"] is not False and not _has(given, ProgressBar):
            extra.append(callbacks.RunProgressBar())
        if config["enable_model_summary"] is not False and not _has(given, ModelSummary):
            extra.append(callbacks.RunModelSummary())
        for key in ("non_finite", "ema", "early_stopping"):
            callback = self._get(self.config_init, key)
            if callback.enabled and not (key == "non_finite" and _has(given, callbacks.NonFiniteGuard)):
                extra.append(callback)
        extra += with_support(given, continues=fitting and self.checkpoint is not None)
        extra += self._embedding_callbacks(given)
        if fitting and config["logger"]:
            extra += [callbacks.LearningRateLog(), callbacks.BatchFigure(), callbacks.ClassificationFigures()]
            extra += [callbacks.Reconstructions(), callbacks.PredictionFigures()]
            extra += [callbacks.TrainingCurves(), callbacks.TaskCurves()]
            if self.model.expects_domains and not _has(given, callbacks.DomainEmbedding):
                extra.append(callbacks.DomainEmbedding())
        if self.subcommand == "predict" and not _has(given, callbacks.PredictionWriter):
            writer = self._get(self.config_init, "predictions")
            writer.folder = self._folder(config) if writer.folder == Path() else writer.folder
            extra.append(writer)
        if config["enable_checkpointing"] is not False and not _has(given, CheckpointCallback):
            config["enable_checkpointing"] = True
            extra.append(self._get(self.config_init, "checkpoint"))
        return extra

    def _embedding_callbacks(self, given: list[L.Callback]) -> list[L.Callback]:
        """Return what a self-supervised module cannot do without, unless it was given."""
        extra: list[L.Callback] = []
        if self.model.expects_views and not _has(given, callbacks.ContrastiveAugmentation):
            named = argument("callbacks", TRAINER)
            log.info("Views: ContrastiveAugmentation with its defaults, since none was given (%s).", named)
            extra.append(callbacks.ContrastiveAugmentation())
        wanted = self.model.evaluates_embedding or self.evaluate_embedding
        if wanted and not _has(given, callbacks.EmbeddingEvaluation):
            extra.append(callbacks.EmbeddingEvaluation())
        return extra

    def _loggers(self, root: str | None) -> list[Logger]:
        """Return TensorBoard's and the table's logger: in a new run's folder, or in that of the run continued."""
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
        """Return the folder of the run that goes on in it, `None` for a new one: of what came later nothing is lost."""
        run = self.checkpoint.run if self.checkpoint else None
        if self.checkpoint is None or run is None or (further := self.checkpoint.further_step()) is None:
            return run
        rank_zero_only(log.info)(
            "%s is of step %d, and its run went on to step %d: a new run starts from it, and %s stays as it is "
            "(%s continues that one).",
            self.checkpoint.path,
            self.checkpoint.step,
            further,
            run,
            setting("ckpt_path", "last", FIT),
        )
        return None

    def _folder(self, config: dict[str, Any]) -> Path:
        """Return where the results of an evaluation go: the folder of the run that made the checkpoint."""
        run = self.checkpoint.run if self.checkpoint else None
        return run or Path(config["default_root_dir"] or ".")

    def _run_subcommand(self, subcommand: str) -> None:
        while True:
            try:
                self._run_once(subcommand)
                return
            except VoidOptionError as error:
                if self.trainer.world_size > 1 or self.trainer.global_step or not self._gives_way(error):
                    raise
            self._set_seed()
            self.instantiate_classes()

    def _run_once(self, subcommand: str) -> None:
        with self._claimed_folder():
            try:
                super()._run_subcommand(subcommand)
            except BaseException as error:  # a signal that ends the program, too
                if self.trainer.is_global_zero and self._new_run is not None and self.trainer.global_step == 0:
                    remove_unused_run(self._new_run)
                if self.checkpoint is not None and isinstance(error, Exception) and _while_restoring(error):
                    reason = " ".join((str(error) or type(error).__name__).split())[:300]
                    raise ValueError(f"{self.checkpoint.path} cannot be restored: {reason}") from error
                raise

    @contextmanager
    def _claimed_folder(self) -> Iterator[None]:
        """Keep other processes out of the folder of a run while it trains; a new run gets one that no other has.

        Where other loggers, or none, are given, that is the folder of its checkpoints, which nobody else may write.
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
        """Make the folder of a new run, and let its loggers write there."""
        for board in loggers:
            if isinstance(board, RunTensorBoardLogger):
                self._new_run = make_run_folder(Path(board.root_dir))
                board._version = self._new_run.name
        for table in loggers:
            if isinstance(table, MetricsCSVLogger) and self._new_run is not None:
                table.folder = self._new_run

    def after_fit(self) -> None:
        """Say what the run has left and how to go on."""
        if self.trainer.global_step == (self.checkpoint.step if self.checkpoint else 0):
            log.warning(
                "Nothing was trained: epoch %d of max_epochs=%s is reached (%s).",
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
        named = f"{checkpoint.monitor} {float(score):.4f}" if score is not None else "the newest"
        log.info("Best checkpoint: %s (%s)", best, named)
        if spelled := option("ckpt_path", FIT):
            trust = trust_option(self.model, self.datamodule)
            log.info("Validate it with: lit-cv validate %s %s%s", spelled, best, trust)


def _while_restoring(error: BaseException) -> bool:
    """Tell whether an error comes from what a checkpoint holds, rather than from what this run was given."""
    if isinstance(error, OSError | MisconfigurationException) or (isinstance(error, ValueError) and raised_here(error)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return any("checkpoint_connector" in frame.filename or frame.name == "configure_model" for frame in frames)


def _check_processes(taken: int) -> None:
    """Refuse a Trainer of one process in each of several that torchrun has started: they would write one folder."""
    started = int(os.environ.get("WORLD_SIZE", 1)) if TorchElasticEnvironment.detect() else 1
    if started > 1 and taken == 1:
        raise ValueError(
            f"torchrun started {started} processes, but the Trainer takes one device: give "
            f"{argument('devices', TRAINER)} the number of --nproc_per_node, and {argument('num_nodes', TRAINER)} that "
            "of --nnodes, or start without torchrun."
        )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _has(instances: list[L.Callback], cls: type) -> bool:
    return any(isinstance(instance, cls) for instance in instances)
