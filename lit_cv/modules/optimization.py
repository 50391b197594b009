"""The optimizer and schedule of a module, from its hyperparameters and the length of its training."""

from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from lit_cv.optim import build_optimizer, build_schedule, parameter_groups, reapply_options, scale_lr

if TYPE_CHECKING:
    from lit_cv.modules.base import BaseModule

__all__ = ["configure_optimizer", "take_given_options"]


def configure_optimizer(module: "BaseModule") -> OptimizerLRScheduler:
    """Build what `LightningModule.configure_optimizers` returns.

    The schedule counts optimizer steps, of which gradient accumulation leaves fewer than batches.
    """
    h, trainer = module.hparams, module.trainer
    total_steps = trainer.estimated_stepping_batches  # also loads the data, hence the batches are known below
    lr = _peak_lr(module)
    if lr != h["lr"]:
        rank_zero_info(f"lr {lr:.4g}: {h['lr']:g} scaled to the batch (--model.lr_scaling {h['lr_scaling']})")
    groups = parameter_groups(module, lr=lr, weight_decay=h["weight_decay"])
    optimizer = build_optimizer(h["optimizer"], groups, lr=lr, weight_decay=h["weight_decay"], momentum=h["momentum"])
    if trainer.gradient_clip_val:
        # A fused optimizer offers to unscale fp16 gradients itself, which is after clipping, and Lightning refuses
        # that (for bf16, too, where nothing is scaled). Without the offer they are unscaled before.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    steps_per_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    schedule = build_schedule(
        h["schedule"],
        optimizer,
        total_steps=total_steps,
        warmup_steps=round(h["warmup_epochs"] * steps_per_epoch),
        min_lr=h["min_lr"],
        mode=module.mode,
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def take_given_options(module: "BaseModule") -> None:
    """Put the options of this run in place of those that a checkpoint restored into the optimizer."""
    h = module.hparams
    groups = parameter_groups(module, lr=_peak_lr(module), weight_decay=h["weight_decay"])
    for optimizer in module.trainer.optimizers:
        reapply_options(optimizer, groups, momentum=h["momentum"])


def _peak_lr(module: "BaseModule") -> float:
    """Return the learning rate for the batch of all devices and accumulated batches."""
    lr, rule, trainer = float(module.hparams["lr"]), module.hparams["lr_scaling"], module.trainer
    if rule == "none":
        return lr
    size = getattr(trainer.train_dataloader, "batch_size", None)
    if size is None:
        raise ValueError(f"lr_scaling={rule!r} needs a training loader with a batch_size: leave it at 'none'.")
    return scale_lr(lr, size * trainer.world_size * trainer.accumulate_grad_batches, rule)
