"""The TensorBoard files of a run."""

import logging
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_cv.atomic_files import atomic_write, write_error

__all__ = ["RunTensorBoardLogger"]

log = logging.getLogger("lit_cv")


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's TensorBoardLogger whose errors name the file, and do not hide an earlier error."""

    _written = False  # whether `hparams.yaml` holds the hyperparameters

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log the hyperparameters; those of a resumed run replace the earlier ones in `hparams.yaml`."""
        super().log_hyperparams(*args, **kwargs)
        # A tuple would get a YAML tag that safe loaders refuse.
        self.hparams = {name: list(v) if isinstance(v, tuple) else v for name, v in self.hparams.items()}
        self._written = False

    @rank_zero_only
    def save(self) -> None:
        """Write pending events, and the hyperparameters once; a link in place of their file is not followed."""
        FabricTensorBoardLogger.save(self)
        folder = Path(self.log_dir)
        if self._written or not folder.is_dir():
            return
        with atomic_write(folder / self.NAME_HPARAMS_FILE, "the hyperparameters", sync=False) as part:
            save_hparams_to_yaml(str(part), self.hparams)
        self._written = True

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        """Log metrics; a thread writes them, so an error may surface at a later call."""
        try:
            super().log_metrics(metrics, step)
        except OSError as error:
            raise write_error(error, "the TensorBoard file in", Path(self.log_dir)) from error

    def finalize(self, status: str) -> None:
        """Close the file; if the run has failed already, an error here is only logged."""
        try:
            super().finalize(status)
        except OSError as error:
            if status != "failed":
                raise write_error(error, "the TensorBoard file in", Path(self.log_dir)) from error
            log.warning("The TensorBoard file in %s is incomplete: %s", self.log_dir, error)
