"""The optimizer and schedule of a module, from its hyperparameters and the length of its training."""

from typing import TYPE_CHECKING

from lightning.pytorch.utilities.types import OptimizerLRScheduler

from lit_cv.optim import build_optimizer, build_schedule, parameter_groups, reapply_options

if TYPE_CHECKING:
    from lit_cv.modules.base import BaseModule

__all__ = ["configure_optimizer", "take_given_options"]


def configure_optimizer(module: "BaseModule") -> OptimizerLRScheduler:
    """Build what `LightningModule.configure_optimizers` returns.

    The schedule counts optimizer steps, of which gradient accumulation leaves fewer than batches.
    """
    h, trainer = module.hparams, module.trainer
    groups = parameter_groups(module, lr=h["lr"], weight_decay=h["weight_decay"])
    optimizer = build_optimizer(
        h["optimizer"],
        groups,
        lr=h["lr"],
        weight_decay=h["weight_decay"],
        momentum=h["momentum"],
        betas=tuple(h["betas"]),
    )
    if trainer.gradient_clip_val:
        # A fused optimizer offers to unscale fp16 gradients itself, which is after clipping, and Lightning refuses
        # that (for bf16, too, where nothing is scaled). Without the offer they are unscaled before.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    total_steps = trainer.estimated_stepping_batches  # also loads the data, hence the batches are known below
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
    groups = parameter_groups(module, lr=h["lr"], weight_decay=h["weight_decay"])
    for optimizer in module.trainer.optimizers:
        reapply_options(optimizer, groups, momentum=h["momentum"], betas=tuple(h["betas"]))
