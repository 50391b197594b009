"""What LightningCLI is given in place of parts of its own."""

from pathlib import Path
from typing import Any, ClassVar, NoReturn

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback, _InstantiatorFn

from lit_cv.atomic_files import atomic_write
from lit_cv.running.refused_arguments import RefusedArguments

__all__ = ["DataInstantiator", "Parser", "SaveConfig"]


class Parser(LightningArgumentParser):
    """A parser that takes no abbreviations: they would hide a typo.

    It reads no files but the configurations that it is given: a value in one of them may name any path.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def _add_signature_parameter(self, *args: Any, **kwargs: Any) -> Any:
        return super()._add_signature_parameter(*args, **{**kwargs, "sub_configs": False})

    typed: ClassVar[list[str]] = []  # the arguments of the process, for messages
    configuration: ClassVar[dict[str, Any]] = {}  # which goes before them

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the arguments."""
        raise RefusedArguments(message, self.typed, self.configuration)


class SaveConfig(SaveConfigCallback):
    """Saves the configuration with the first batch: one that cannot be trained with replaces none that could."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Wait."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Write `config.yaml` to the run's folder, once."""
        if self.already_saved:
            return
        self.already_saved = True
        folder = trainer.log_dir  # which all ranks ask together
        if folder is None or not trainer.is_global_zero:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        if any(isinstance(callback, BatchSizeFinder) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self.config["data.init_args.batch_size"] = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        with atomic_write(Path(folder) / self.config_filename, "the configuration") as part:
            self.parser.save(self.config, part, skip_unset=False, overwrite=True, multifile=False)


class DataInstantiator(_InstantiatorFn):
    """Lets a DataModule within another keep its own hyperparameters; Lightning gives it those of the outer one."""

    def __call__(self, class_type: type[Any], *args: Any, applied_instantiation_links: Any, **kwargs: Any) -> Any:
        """Build an instance."""
        self.cli._dump_config()
        outer = str(self.cli.config_dump.get(self.key, {}).get("class_path", ""))
        if outer.rpartition(".")[2] != class_type.__name__:
            return class_type(*args, **kwargs)
        return super().__call__(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
