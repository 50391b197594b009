"""Optimizer and schedule of a module, from its hyperparameters and the length of its training."""

import logging
import math
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from lit_cv.distributed import full_parameters
from lit_cv.errors import TRAINER, OptionError, argument
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.optim import build_optimizer, build_schedule, reapply_options, scale_lr, scales_layers
from lit_cv.optim.restored_state import require_valid_state
from lit_cv.strategies import require_replicated_weights

__all__ = ["apply_run_options", "configure_optimizer", "scaled_groups"]

log = logging.getLogger("lit_cv")


def configure_optimizer(module: ExtensionPoints) -> OptimizerLRScheduler:
    """Return the value of `LightningModule.configure_optimizers`.

    The schedule counts optimizer steps; gradient accumulation makes them fewer than batches.
    """
    h, trainer = module.hparams, module.trainer
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()  # the number of batches is needed below, even if only steps bound the run
    total_steps = trainer.estimated_stepping_batches
    if scales_layers(h["optimizer"]):
        require_replicated_weights(trainer, f"optimizer={h['optimizer']!r}", f"another {argument('optimizer', module)}")
    groups = scaled_groups(module)
    if h["warmup_epochs"] < 0:
        raise OptionError(module, "warmup_epochs", h["warmup_epochs"], "must be at least 0")
    if (factor := _batch_factor(module)) != 1:
        scaling = argument("lr_scaling", module)
        rank_zero_only(log.info)(f"lr {factor * h['lr']:.4g}: {h['lr']:g} scaled to the batch ({scaling})")
    optimizer = build_optimizer(
        h["optimizer"],
        groups,
        lr=h["lr"],
        weight_decay=h["weight_decay"],
        momentum=h["momentum"],
        betas=tuple(h["betas"]),
    )
    if trainer.gradient_clip_val:
        # Fused optimizers offer to unscale fp16 gradients themselves, after clipping. Lightning refuses to clip then,
        # also for bf16, where nothing is scaled. Without the offer gradients are unscaled before clipping.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if math.isinf(trainer.num_training_batches) and h["warmup_epochs"]:
        limit = argument("limit_train_batches", TRAINER)
        allowed = f"must be 0, since the training data have no length; or set {limit} to the steps of an epoch"
        raise OptionError(module, "warmup_epochs", h["warmup_epochs"], allowed)
    batches = trainer.num_training_batches if h["warmup_epochs"] else 0
    steps_per_epoch = -(-batches // trainer.accumulate_grad_batches)
    schedule = build_schedule(
        h["schedule"],
        optimizer,
        total_steps=total_steps,
        warmup_steps=round(h["warmup_epochs"] * steps_per_epoch),
        min_lr=h["min_lr"],
        mode=module.mode,
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def apply_run_options(module: ExtensionPoints) -> None:
    """Override the optimizer options restored from a checkpoint by those of this run."""
    h, groups = module.hparams, scaled_groups(module)
    for optimizer in module.trainer.optimizers:
        require_valid_state(optimizer)
        reapply_options(optimizer, groups, momentum=h["momentum"], betas=tuple(h["betas"]))


def scaled_groups(module: ExtensionPoints) -> list[dict[str, Any]]:
    """Return the module's parameter groups, with learning rates scaled to the batch size."""
    factor = _batch_factor(module)
    with full_parameters(module.trainer.strategy.model):  # their dimensions decide on weight decay
        return [{**group, "lr": factor * group["lr"]} for group in module.parameter_groups()]


def _batch_factor(module: ExtensionPoints) -> float:
    """Return the factor of learning rates for the total batch over all devices and accumulated batches."""
    rule, trainer = module.hparams["lr_scaling"], module.trainer
    if rule == "none":
        return 1.0
    size = getattr(trainer.train_dataloader, "batch_size", None)
    if size is None:
        allowed = "needs a training loader with a batch_size; otherwise leave it at 'none'"
        raise OptionError(module, "lr_scaling", rule, allowed)
    return scale_lr(1.0, size * trainer.world_size * trainer.accumulate_grad_batches, rule)
