"""What Lightning calls: one step for every stage, exact resume, and networks that are built when they are needed."""

import warnings
from typing import Any, Self, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MetricCollection

from lit_cv.contracts import Batch, Output, Stage
from lit_cv.loop_state import batch_index, is_logging_step, restore_loaders
from lit_cv.modules.batch_errors import explain_batch
from lit_cv.modules.checkpoint_contents import add_contents, take_contents
from lit_cv.modules.compilation import compile_networks
from lit_cv.modules.data_classes import match_data_classes
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.modules.optimization import configure_optimizer, take_given_options
from lit_cv.optim import Plateau
from lit_cv.randomness import global_seed, seed_step
from lit_cv.trust import names_of_files

__all__ = ["LightningHooks"]


class LightningHooks(ExtensionPoints):
    """Runs a learning approach under Lightning's Trainer.

    Training, validation and test all run through `step`. The means of an epoch are logged at its end.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.on_train_batch_end is not L.LightningModule.on_train_batch_end:
            raise TypeError(
                f"{cls.__name__}.on_train_batch_end would run after checkpoints are written, so that a resumed run "
                "would differ: override after_step instead."
            )
        if cls.configure_model is not LightningHooks.configure_model:
            raise TypeError(
                f"{cls.__name__}.configure_model would build its networks more than once, for it is called wherever "
                "they are needed: override configure_networks instead."
            )

    def setup(self, stage: str) -> None:
        """Have the data number their classes as this module does; a subclass that overrides it calls it, too."""
        match_data_classes(self)
        if stage == "fit" and self.training:  # then the parts in eval mode are so on purpose: frozen, or a teacher
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")

    def configure_model(self) -> None:
        """Build the networks, once: a subclass overrides `configure_networks`."""
        if self.has_networks:
            return
        if not self.trained_classes:  # Lightning's averaging callbacks build the networks before `setup`
            match_data_classes(self)
        self.configure_networks()
        self.build_metrics()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule, which moves at every step."""
        return configure_optimizer(self)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed the step before callbacks augment its batch: see `lit_cv.randomness`."""
        if self.trainer.training:
            if self.seed is None:
                self.seed = global_seed()
            seed_step(self.seed, self.current_epoch, batch_index(self.trainer), self.global_rank, self.device)
        return batch

    def on_train_start(self) -> None:
        """Go on where a checkpoint stands in the data, but with the options of this run; compile what is asked for."""
        restore_loaders(self.trainer)
        take_given_options(self)
        if self.hparams["compile"]:
            compile_networks(self)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and have `after_step` follow it."""
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.after_step()

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a step and log its loss now and then; the epoch's means are logged at its end."""
        output = self._run_step(batch, "train")
        if is_logging_step(self.trainer):
            self.log("train_loss_step", output["loss"], prog_bar=True)
        return output

    def validation_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a step without learning from it."""
        return self._run_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Output:
        """Run a step without learning from it."""
        return self._run_step(batch, "test")

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and move a schedule that waits for a metric."""
        self._log_epoch("train")
        schedule = self.lr_schedulers()
        if isinstance(schedule, Plateau):
            metrics = self.trainer.callback_metrics
            schedule.observe(float(metrics[self.monitor if self.monitor in metrics else "train_loss"]))

    def on_validation_epoch_end(self) -> None:
        """Log the means and metrics of all validation images."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the means and metrics of all test images."""
        self._log_epoch("test")

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:
        """Build the module of a checkpoint as Lightning does; names in it bring no code that is not loaded already."""
        with names_of_files():
            return super().load_from_checkpoint(*args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an exact resume and a later reader need."""
        add_contents(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class, and take up the seed of its run."""
        take_contents(self, checkpoint)

    def _run_step(self, batch: Batch, stage: Stage) -> Output:
        try:
            output = self.step(batch, stage)
        except Exception as error:
            if reason := explain_batch(type(self).__name__, batch, error):
                raise TypeError(reason) from error
            raise
        if not _has_loss(output, stage):
            raise TypeError(
                f"{type(self).__name__}.step must return a dict with `loss`, a tensor of one number: {_said(output)}"
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
            with warnings.catch_warnings():  # there may be no image of the kind that a metric is of, or on this rank
                warnings.filterwarnings("ignore", "The ``compute`` method of metric")
                values |= metrics.compute()
            with torch.inference_mode(False):  # of `validate`, after which `fit` could not update its tensors
                metrics.reset()
        for name, value in self.summarize(stage, values).items():
            self.log(name, value, prog_bar=name == self.monitor)


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _has_loss(output: object, stage: Stage) -> bool:
    """Tell whether a step returned a dict with a loss, which evaluation can do without."""
    if not isinstance(output, dict):
        return False
    return _is_number(output.get("loss")) or (stage != "train" and "loss" not in output)


def _said(output: object) -> str:
    """Say what a step returned in place of a dict with a loss."""
    if not isinstance(output, dict):
        return f"it returned a {type(output).__name__}."
    if "loss" not in output:
        return f"it returned {', '.join(map(str, output)) or 'an empty one'}."
    loss = output["loss"]
    shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
    return f"its loss is a {type(loss).__name__}{shape}."


def _size(batch: Batch) -> int:
    """Return the number of samples: of the first tensor, in the batch or in the first batch within it."""
    for value in batch.values():
        if isinstance(value, Tensor):
            return len(value)
        if isinstance(value, dict):
            return _size(value)
    raise TypeError(f"a batch of {', '.join(map(str, batch)) or 'nothing'} has no tensor.")
