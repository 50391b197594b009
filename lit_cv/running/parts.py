"""Replacements for parts of LightningCLI."""

from pathlib import Path
from typing import Any, ClassVar, NoReturn

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback, _InstantiatorFn

from lit_cv.atomic_files import atomic_write
from lit_cv.running.refused_arguments import RefusedArguments

__all__ = ["DataInstantiator", "Parser", "SaveConfig"]


class Parser(LightningArgumentParser):
    """Parser without abbreviated options, which would hide typos.

    It reads no files except the given configurations: a value in one of them could name any path.

    Attributes:
        typed: The arguments as typed, for messages.
        configuration: The configuration below the typed arguments, for messages.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def _add_signature_parameter(self, *args: Any, **kwargs: Any) -> Any:
        return super()._add_signature_parameter(*args, **{**kwargs, "sub_configs": False})

    typed: ClassVar[list[str]] = []
    configuration: ClassVar[dict[str, Any]] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the arguments."""
        raise RefusedArguments(message, self.typed, self.configuration)


class SaveConfig(SaveConfigCallback):
    """Saves the configuration with the first batch: one that fails to train must not replace one that trained."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Skip Lightning's saving at setup; the first batch saves."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Write `config.yaml` to the run's folder, once."""
        if self.already_saved:
            return
        self.already_saved = True
        folder = trainer.log_dir  # a collective call: all ranks must make it
        if folder is None or not trainer.is_global_zero:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        if any(isinstance(callback, BatchSizeFinder) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self.config["data.init_args.batch_size"] = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        with atomic_write(Path(folder) / self.config_filename, "the configuration") as part:
            self.parser.save(self.config, part, skip_unset=False, overwrite=True, multifile=False)


class DataInstantiator(_InstantiatorFn):
    """Keeps the hyperparameters of a nested DataModule; Lightning would give it those of the outer one."""

    def __call__(self, class_type: type[Any], *args: Any, applied_instantiation_links: Any, **kwargs: Any) -> Any:
        """Build an instance."""
        self.cli._dump_config()
        outer = str(self.cli.config_dump.get(self.key, {}).get("class_path", ""))
        if outer.rpartition(".")[2] != class_type.__name__:
            return class_type(*args, **kwargs)
        return super().__call__(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
