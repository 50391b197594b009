"""The TensorBoard files of a run."""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_cv.atomic_files import atomic_write, write_error

__all__ = ["RunTensorBoardLogger"]

log = logging.getLogger("lit_cv")

_SECTIONS = ("train", "val", "test", "best", "final")
_OF_TRAINING = ("lr", "weight", "sigma", "epoch")  # names without a stage


def board_tag(name: str) -> str:
    """Return the tag of a metric, whose part before the slash is its section in TensorBoard.

    Example:
        >>> [board_tag(name) for name in ("val_acc", "train_loss_step", "lr", "lr_head", "mine")]
        ['val/acc', 'train/loss_step', 'train/lr', 'train/lr_head', 'mine']
    """
    section, separator, rest = name.partition("_")
    if "/" in name:
        return name
    if section in _SECTIONS and separator and rest:
        return f"{section}/{rest}"
    return f"train/{name}" if section.partition("-")[0] in _OF_TRAINING else name


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's TensorBoardLogger with a section for each stage, and with errors that name the file.

    The metric `val_acc` has the tag `val/acc` here; its name elsewhere is unchanged. A run whose files hold tags
    without sections keeps them when it is resumed, so that its curves continue. An error does not hide an earlier one.
    """

    _written = False  # whether `hparams.yaml` holds the hyperparameters

    @cached_property
    def _has_sections(self) -> bool:
        return not _has_plain_tags(Path(self.log_dir))

    def _tagged(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {board_tag(name) if self._has_sections else name: value for name, value in metrics.items()}

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None) -> None:
        """Log the hyperparameters; those of a resumed run replace the earlier ones in `hparams.yaml`."""
        super().log_hyperparams(params, self._tagged(metrics) if isinstance(metrics, dict) else metrics, step)
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

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        """Log metrics; a thread writes them, so an error may surface at a later call."""
        try:
            super().log_metrics(self._tagged(metrics), step)
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


def _has_plain_tags(folder: Path) -> bool:
    """Return whether the first metric in the TensorBoard files of a folder has a tag without a section."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader  # type: ignore[import-untyped]

    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if board_tag(value.tag) != value.tag:
                    return True
                if value.HasField("simple_value") and "/" in value.tag:
                    return False
    return False
