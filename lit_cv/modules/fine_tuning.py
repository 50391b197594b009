"""Fine-tuning strategies: which parts of a pretrained backbone are trained, and at which learning rates."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_cv.errors import TRAINER, argument, setting
from lit_cv.modules.base_weights import frozen_digest, remove_base_weights
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.modules.fine_tuning_options import (
    backbone_learning_rate,
    check_options,
    count_frozen,
    head_learning_rate,
    stage_learning_rates,
    unfreezing_epoch,
)
from lit_cv.modules.group_table import GroupRow, print_groups
from lit_cv.modules.optimization import scaled_groups
from lit_cv.nn import BackboneStage, add_lora, backbone_stages, lora_layers
from lit_cv.nn.batch_statistics import batch_norms
from lit_cv.optim import Layer, StepSchedule, layer_groups
from lit_cv.strategies import require_replicated_weights

__all__ = ["FineTuning", "require_same_strategy"]

log = logging.getLogger("lit_cv")


class FineTuning:
    """Implements the `strategy` of a module with tasks, see `lit_cv.modules.task_module.TasksModule`.

    Args:
        hparams: Hyperparameters of the module.

    Attributes:
        stages: Trainable stages of the backbone in order from the image, after `attach`.
        frozen: Number of frozen stages, counted from the image.
        restored: Whether training resumes from a checkpoint.

    Raises:
        ValueError: If options contradict each other.
    """

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        check_options(hparams)
        self.strategy = str(hparams["strategy"])
        self.stages: list[BackboneStage] = []
        self.frozen = 0
        self.restored = False
        self._start: dict[str, Tensor] | None = None  # pretrained weights that L2-SP pulls toward
        self._updates: list[nn.Parameter] = []  # parameters of LoRA
        self._digest: str | None = None  # digest of the weights that LoRA updates

    def attach(self, module: ExtensionPoints) -> None:
        """Divide a module's backbone into stages, and freeze those that are frozen at the start."""
        h, body = module.hparams, module.backbone.body
        # Fixed position embeddings stay fixed, and layers beyond the feature maps of dense tasks are not run.
        trainable = (
            stage._replace(parameters=tuple(p for p in stage.parameters if p.requires_grad))
            for stage in backbone_stages(body)
        )
        self.stages = [stage for stage in trainable if stage.parameters]
        if self.strategy == "lora":
            add_lora(body, h["lora_rank"], h["lora_alpha"], h["lora_targets"])
            layers = lora_layers(body)
            self._updates = [p for layer in layers for name, p in layer.named_parameters() if name.startswith("lora_")]
        self.freeze(module, count_frozen(h, self.stages, epoch=0))

    def freeze(self, module: ExtensionPoints, count: int) -> None:
        """Freeze the first `count` stages, counted from the image, and unfreeze the others."""
        self.frozen = count
        for position, stage in enumerate(self.stages):
            for parameter in stage.parameters:
                parameter.requires_grad_(position >= count)
        module.train(module.training)

    def keep_frozen_in_eval_mode(self, module: ExtensionPoints) -> None:
        """Set frozen stages to eval mode."""
        for stage in self.stages[: self.frozen]:
            for part in stage.modules:
                part.eval()
        if self.stages and self.frozen == len(self.stages):
            module.backbone.eval()

    def backbone_lr(self, module: ExtensionPoints) -> float:
        """Return the learning rate of a module's backbone, before layer-wise decay."""
        return backbone_learning_rate(module.hparams, batch_norm=bool(batch_norms(module.backbone)))

    def parameter_groups(self, module: ExtensionPoints) -> list[dict[str, Any]]:
        """Return the groups of the heads and of each trained stage, from the last to the first."""
        h = module.hparams
        in_backbone = set(module.backbone.parameters())
        head = [parameter for parameter in module.parameters() if parameter not in in_backbone]
        layers = [Layer("head", head, head_learning_rate(h), h["weight_decay"])]
        if self._updates:
            layers.append(Layer("lora", self._updates, self.backbone_lr(module), h["weight_decay"]))
        decay = 0.0 if h["l2_sp"] else h["weight_decay"]
        lrs = stage_learning_rates(h, self.backbone_lr(module), len(self.stages))
        for position in reversed(range(self.frozen, len(self.stages))):
            stage = self.stages[position]
            layers.append(Layer(stage.name, stage.parameters, lrs[position], decay))
        return layer_groups(module, layers)

    def begin(self, module: ExtensionPoints) -> None:
        """Store the pretrained weights at the start of a fit, and print the parameter groups.

        Raises:
            ValueError: If the Trainer cannot carry out the strategy.
        """
        h, trainer = module.hparams, module.trainer
        if h["weights"] is None and not self.restored:
            frozen = self.frozen == len(self.stages) and self.strategy != "gradual_unfreezing"
            effect = "the frozen backbone keeps" if frozen else "training the backbone from"
            log.warning("Pretrained weights are not set (%s): %s random weights.", argument("weights", module), effect)
        if self.strategy == "gradual_unfreezing" and trainer.world_size > 1:
            raise ValueError(
                "strategy='gradual_unfreezing' trains on one device: data-parallel training fixes at its start which "
                f"gradients are exchanged. Set {setting('devices', 1, TRAINER)} or another "
                f"{argument('strategy', module)}."
            )
        if self.strategy == "lora":
            require_replicated_weights(trainer, "strategy='lora'", f"another {argument('strategy', module)}")
        if h["l2_sp"] and self._start is None:
            self._start = {name: value.detach().clone() for name, value in module.backbone.body.named_parameters()}
        if trainer.is_global_zero and any("ModelSummary" in type(c).__name__ for c in _callbacks(trainer)):
            print_groups(f"{type(module).__name__}: {self.strategy} of {h['backbone']}", self._rows(module))

    def begin_epoch(self, module: ExtensionPoints) -> None:
        """Unfreeze the stages that are due in this epoch."""
        frozen = count_frozen(module.hparams, self.stages, module.current_epoch)
        schedule = module.lr_schedulers()
        if frozen >= self.frozen or not isinstance(schedule, StepSchedule):
            return
        present = {group["name"] for group in schedule.optimizer.param_groups}
        unfrozen = ", ".join(stage.name for stage in reversed(self.stages[frozen : self.frozen]))
        log.info("Epoch %d: unfreezing %s.", module.current_epoch + 1, unfrozen)
        self.freeze(module, frozen)
        for group in scaled_groups(module):
            if group["name"] not in present:
                schedule.add_group(group)

    def penalties(self, module: ExtensionPoints) -> dict[str, Tensor]:
        """Return the terms that the strategy adds to the training loss."""
        if self._start is None:
            return {}
        total = torch.zeros((), device=module.device)
        for name, parameter in module.backbone.body.named_parameters():
            if parameter.requires_grad:
                total = total + (parameter - self._start[name].to(parameter.device)).square().sum()
        return {"l2_sp": total * float(module.hparams["l2_sp"] / 2)}

    def add_to_checkpoint(self, module: ExtensionPoints, checkpoint: dict[str, Any]) -> None:
        """Add the number of frozen stages and L2-SP's weights; with LoRA, remove the backbone's frozen weights."""
        extra = checkpoint["lit_cv"]
        extra["frozen_stages"] = self.frozen
        if self._start is not None:
            extra["l2_sp"] = self._start
        if self.strategy == "lora" and module.hparams["weights"] is not None:
            self._digest = self._digest or frozen_digest(module)
            remove_base_weights(module, checkpoint, self._digest)

    def take_from_checkpoint(self, module: ExtensionPoints, checkpoint: Mapping[str, Any]) -> None:
        """Resume the training of a checkpoint.

        Raises:
            ValueError: If it was trained with another strategy.
        """
        h, extra = module.hparams, checkpoint["lit_cv"]
        self.restored = True
        require_same_strategy(module, checkpoint, self.frozen)
        self.freeze(module, extra["frozen_stages"])
        if h["l2_sp"] and "l2_sp" in extra:
            self._start = {name: value.to(module.device) for name, value in extra["l2_sp"].items()}

    def _rows(self, module: ExtensionPoints) -> list[GroupRow]:
        """Return the table's rows: the heads, then the stages from the last to the first."""
        h, groups = module.hparams, self.parameter_groups(module)
        head = sum(p.numel() for group in groups if group["layer"] == "head" for p in group["params"])
        solved = h.get("solve_head") and self.strategy == "feature_extraction"
        rows = [GroupRow("head", head, "solved" if solved else "yes", head_learning_rate(h))]
        if self._updates:
            rows.append(GroupRow("lora", sum(p.numel() for p in self._updates), "yes", self.backbone_lr(module)))
        lrs = stage_learning_rates(h, self.backbone_lr(module), len(self.stages))
        for position in reversed(range(len(self.stages))):
            stage = self.stages[position]
            epoch = unfreezing_epoch(h, self.stages, position)
            learns = position >= self.frozen
            trainable = "yes" if learns else "no" if epoch is None else f"from epoch {epoch + 1}"
            lr = lrs[position] if learns or epoch is not None else 0.0
            rows.append(GroupRow(stage.name, sum(p.numel() for p in stage.parameters), trainable, lr))
        return rows


def require_same_strategy(module: ExtensionPoints, checkpoint: Mapping[str, Any], frozen: int = 0) -> None:
    """Raise an error if a checkpoint was trained with another strategy than the module's.

    Args:
        module: The module.
        checkpoint: The checkpoint.
        frozen: Number of frozen stages of the module.

    Raises:
        ValueError: If the strategies differ.
    """
    saved, strategy = checkpoint["hyper_parameters"].get("strategy"), module.hparams["strategy"]
    count = checkpoint["lit_cv"].get("frozen_stages", 0)
    if saved != strategy or (count != frozen and strategy != "gradual_unfreezing"):
        raise ValueError(
            f"the checkpoint was trained with strategy={saved!r} and {count} frozen stages, this run has "
            f"strategy={strategy!r} and {frozen}: resume with the same options, or start a new run from its weights "
            f"({argument('weights', module)})."
        )


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]
