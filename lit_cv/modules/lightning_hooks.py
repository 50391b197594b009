"""Lightning hooks: one step for all stages, exact resume, and lazily built networks."""

import warnings
from typing import Any, Self, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MetricCollection

from lit_cv.contracts import Batch, Output, Stage
from lit_cv.loop_state import batch_index, is_logging_step, restore_loaders
from lit_cv.modules.batch_errors import explain_batch, explain_local_size
from lit_cv.modules.checkpoint_contents import add_contents, restore_contents
from lit_cv.modules.compilation import compile_networks
from lit_cv.modules.data_classes import match_data_classes
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.modules.optimization import apply_run_options, configure_optimizer
from lit_cv.optim import Plateau
from lit_cv.randomness import global_seed, seed_step
from lit_cv.trust import names_of_files

__all__ = ["LightningHooks"]


class LightningHooks(ExtensionPoints):
    """Runs a learning approach in Lightning's Trainer.

    Training, validation and test all run through `step`. Epoch means are logged at the end of the epoch.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.on_train_batch_end is not L.LightningModule.on_train_batch_end:
            raise TypeError(
                f"{cls.__name__} overrides on_train_batch_end, which runs after checkpoints are written, so that a "
                "resumed run would differ: override after_step instead."
            )
        if cls.configure_model is not LightningHooks.configure_model:
            raise TypeError(
                f"{cls.__name__} overrides configure_model, which is called several times and would build its networks "
                "more than once: override configure_networks instead."
            )

    def setup(self, stage: str) -> None:
        """Match the classes of the data with the module's. An override in a subclass must call it."""
        match_data_classes(self)
        if stage == "fit" and self.training:  # parts in eval mode are intended: frozen ones or a teacher
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")

    def configure_model(self) -> None:
        """Build the networks on the first call. Subclasses override `configure_networks` instead."""
        if self.has_networks:
            return
        if not self.trained_classes:  # Lightning's averaging callbacks build the networks before `setup`
            match_data_classes(self)
        self.configure_networks()
        self.build_metrics()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its per-step schedule."""
        return configure_optimizer(self)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed the step before callbacks augment its batch, see `lit_cv.randomness`."""
        if self.trainer.training:
            if self.seed is None:
                self.seed = global_seed()
            seed_step(self.seed, self.current_epoch, batch_index(self.trainer), self.global_rank, self.device)
        return batch

    def on_train_start(self) -> None:
        """Restore a checkpoint's position in the data, apply the options of this run, and compile if configured."""
        restore_loaders(self.trainer)
        apply_run_options(self)
        if self.hparams["compile"]:
            compile_networks(self)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take an optimizer step, then call `after_step`."""
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.after_step()

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a step and log its loss if the Trainer logs it; epoch means are logged at the end of the epoch."""
        output = self._run_step(batch, "train")
        if is_logging_step(self.trainer):
            self.log("train_loss_step", output["loss"], prog_bar=True)
        return output

    def validation_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a validation step."""
        return self._run_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a test step."""
        return self._run_step(batch, "test")

    def on_train_epoch_end(self) -> None:
        """Log the epoch means, and update a schedule that depends on a metric."""
        self._log_epoch("train")
        schedule = self.lr_schedulers()
        if isinstance(schedule, Plateau):
            metrics = self.trainer.callback_metrics
            schedule.observe(float(metrics[self.monitor if self.monitor in metrics else "train_loss"]))

    def on_validation_epoch_end(self) -> None:
        """Log the means and metrics of the validation."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the means and metrics of the test."""
        self._log_epoch("test")

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:
        """Build the module of a checkpoint as Lightning does, without importing code that the checkpoint names."""
        with names_of_files():
            return super().load_from_checkpoint(*args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an exact resume and later readers need."""
        add_contents(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this class, and restore the state of its run."""
        restore_contents(self, checkpoint)

    def _run_step(self, batch: Batch, stage: Stage) -> Output:
        try:
            output = self.step(batch, stage)
        except Exception as error:
            if reason := explain_batch(type(self).__name__, batch, error):
                raise TypeError(reason) from error
            if reason := explain_local_size(getattr(self, "backbone", None), batch):
                raise ValueError(reason) from error
            raise
        if not _has_loss(output, stage):
            raise TypeError(
                f"{type(self).__name__}.step must return a dict with `loss`, a scalar tensor: {_describe(output)}"
            )
        if stage == "train" and (penalties := self.penalties()):
            output |= {name: term.detach() for name, term in penalties.items()}
            output["loss"] = output["loss"] + torch.stack([*penalties.values()]).sum()
        scalars = {name: value for name, value in output.items() if _is_number(value)}
        self.means[stage].update(scalars, _size(batch), output.get("counts"))
        if stage in self.metrics:
            self.update_metrics(cast(MetricCollection, self.metrics[stage]), output)
        return output

    def _log_epoch(self, stage: Stage) -> None:
        values = {f"{stage}_{name}": value for name, value in self.means[stage].compute().items()}
        self.means[stage].reset()
        if stage in self.metrics:
            metrics = cast(MetricCollection, self.metrics[stage])
            with warnings.catch_warnings():  # a metric may have no images at all, or none on this rank
                warnings.filterwarnings("ignore", "The ``compute`` method of metric")
                values |= metrics.compute()
            with torch.inference_mode(False):  # otherwise a fit after `validate` could not update its tensors
                metrics.reset()
        for name, value in self.summarize(stage, values).items():
            self.log(name, value, prog_bar=name == (self.displayed or self.monitor))


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _has_loss(output: object, stage: Stage) -> bool:
    """Return whether a step returned a dict with a loss, which is optional in evaluation."""
    if not isinstance(output, dict):
        return False
    return _is_number(output.get("loss")) or (stage != "train" and "loss" not in output)


def _describe(output: object) -> str:
    """Describe what a step returned instead of a dict with a loss."""
    if not isinstance(output, dict):
        return f"it returned a {type(output).__name__}."
    if "loss" not in output:
        return f"it returned {', '.join(map(str, output)) or 'an empty dict'}."
    loss = output["loss"]
    shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
    return f"its loss is a {type(loss).__name__}{shape}."


def _size(batch: Batch) -> int:
    """Return the number of samples: the length of the first tensor in the batch or in its first nested batch."""
    for value in batch.values():
        if isinstance(value, Tensor):
            return len(value)
        if isinstance(value, dict):
            return _size(value)
    raise TypeError(f"a batch with {', '.join(map(str, batch)) or 'no entries'} has no tensor.")
