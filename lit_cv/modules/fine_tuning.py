"""What of a pretrained backbone learns, and how fast, whatever the tasks on top of it."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_cv.errors import TRAINER, argument, setting
from lit_cv.modules.base_weights import frozen_digest, leave_out_base
from lit_cv.modules.extension_points import ExtensionPoints
from lit_cv.modules.fine_tuning_options import (
    backbone_rate,
    backbone_rates,
    check_options,
    count_frozen,
    epoch_of_unfreezing,
    head_rate,
)
from lit_cv.modules.group_table import GroupRow, print_groups
from lit_cv.modules.optimization import scaled_groups
from lit_cv.nn import Stage, add_lora, backbone_stages, lora_layers
from lit_cv.optim import Layer, StepSchedule, layer_groups
from lit_cv.strategies import require_replicated_weights

__all__ = ["FineTuning", "refuse_other_strategy"]

log = logging.getLogger("lit_cv")


class FineTuning:
    """Carries out the `strategy` of a module with tasks: see `lit_cv.modules.task_module.TasksModule`.

    Args:
        hparams: Hyperparameters of the module.

    Attributes:
        stages: Stages of the backbone that are used, from the image on, once it is attached.
        frozen: How many of them are frozen, counted from the image.
        restored: Whether a checkpoint's training goes on.

    Raises:
        ValueError: If options contradict each other.
    """

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        check_options(hparams)
        self.strategy = str(hparams["strategy"])
        self.stages: list[Stage] = []
        self.frozen = 0
        self.restored = False
        self._start: dict[str, Tensor] | None = None  # the weights that L2-SP pulls towards
        self._updates: list[nn.Parameter] = []  # of LoRA
        self._digest: str | None = None  # of the weights that LoRA updates

    def attach(self, module: ExtensionPoints) -> None:
        """Divide the backbone of a module into stages, and freeze what is frozen at the start."""
        h, body = module.hparams, module.backbone.body
        # Positions that do not learn in the network stay so, and layers beyond the maps of dense tasks are not run.
        learning = (
            stage._replace(parameters=tuple(p for p in stage.parameters if p.requires_grad))
            for stage in backbone_stages(body)
        )
        self.stages = [stage for stage in learning if stage.parameters]
        if self.strategy == "lora":
            add_lora(body, h["lora_rank"], h["lora_alpha"], h["lora_targets"])
            layers = lora_layers(body)
            self._updates = [p for layer in layers for name, p in layer.named_parameters() if name.startswith("lora_")]
        self.freeze(module, count_frozen(h, self.stages, epoch=0))

    def freeze(self, module: ExtensionPoints, count: int) -> None:
        """Freeze the first `count` stages, counted from the image, and free the others."""
        self.frozen = count
        for position, stage in enumerate(self.stages):
            for parameter in stage.parameters:
                parameter.requires_grad_(position >= count)
        module.train(module.training)

    def keep_frozen_in_eval_mode(self, module: ExtensionPoints) -> None:
        """Put what is frozen into eval mode."""
        for stage in self.stages[: self.frozen]:
            for part in stage.modules:
                part.eval()
        if self.stages and self.frozen == len(self.stages):
            module.backbone.eval()

    def parameter_groups(self, module: ExtensionPoints) -> list[dict[str, Any]]:
        """Return the groups of what is on the backbone and of each stage that learns, from the last to the first."""
        h = module.hparams
        in_backbone = set(module.backbone.parameters())
        head = [parameter for parameter in module.parameters() if parameter not in in_backbone]
        layers = [Layer("head", head, head_rate(h), h["weight_decay"])]
        if self._updates:
            layers.append(Layer("lora", self._updates, backbone_rate(h), h["weight_decay"]))
        decay = 0.0 if h["l2_sp"] else h["weight_decay"]
        rates = backbone_rates(h, len(self.stages))
        for position in reversed(range(self.frozen, len(self.stages))):
            stage = self.stages[position]
            layers.append(Layer(stage.name, stage.parameters, rates[position], decay))
        return layer_groups(module, layers)

    def begin(self, module: ExtensionPoints) -> None:
        """Take note of the pretrained weights at the start of a fit, and show what learns.

        Raises:
            ValueError: If the Trainer cannot carry out the strategy.
        """
        h, trainer = module.hparams, module.trainer
        if h["weights"] is None and not self.restored:
            log.warning(
                "No weights were given (%s): the backbone starts from random ones.", argument("weights", module)
            )
        if self.strategy == "gradual_unfreezing" and trainer.world_size > 1:
            raise ValueError(
                "strategy='gradual_unfreezing' trains on one device: data-parallel training settles at its start "
                f"which gradients it exchanges. Set {setting('devices', 1, TRAINER)} or another "
                f"{argument('strategy', module)}."
            )
        if self.strategy == "lora":
            require_replicated_weights(trainer, "strategy='lora'", f"another {argument('strategy', module)}")
        if h["l2_sp"] and self._start is None:
            self._start = {name: value.detach().clone() for name, value in module.backbone.body.named_parameters()}
        if trainer.is_global_zero and any("ModelSummary" in type(c).__name__ for c in _callbacks(trainer)):
            print_groups(f"{type(module).__name__}: {self.strategy} of {h['backbone']}", self._rows(module))

    def begin_epoch(self, module: ExtensionPoints) -> None:
        """Free the stages whose epoch has come."""
        frozen = count_frozen(module.hparams, self.stages, module.current_epoch)
        schedule = module.lr_schedulers()
        if frozen >= self.frozen or not isinstance(schedule, StepSchedule):
            return
        held = {group["name"] for group in schedule.optimizer.param_groups}
        freed = ", ".join(stage.name for stage in reversed(self.stages[frozen : self.frozen]))
        log.info("Epoch %d: %s learns, too.", module.current_epoch + 1, freed)
        self.freeze(module, frozen)
        for group in scaled_groups(module):
            if group["name"] not in held:
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
        """Add what is frozen, and the weights that L2-SP pulls towards; under LoRA leave the backbone's weights out."""
        extra = checkpoint["lit_cv"]
        extra["frozen_stages"] = self.frozen
        if self._start is not None:
            extra["l2_sp"] = self._start
        if self.strategy == "lora" and module.hparams["weights"] is not None:
            self._digest = self._digest or frozen_digest(module)
            leave_out_base(module, checkpoint, self._digest)

    def take_from_checkpoint(self, module: ExtensionPoints, checkpoint: Mapping[str, Any]) -> None:
        """Go on with the training of a checkpoint.

        Raises:
            ValueError: If it was trained with another strategy.
        """
        h, extra = module.hparams, checkpoint["lit_cv"]
        self.restored = True
        refuse_other_strategy(module, checkpoint, self.frozen)
        self.freeze(module, extra["frozen_stages"])
        if h["l2_sp"] and "l2_sp" in extra:
            self._start = {name: value.to(module.device) for name, value in extra["l2_sp"].items()}

    def _rows(self, module: ExtensionPoints) -> list[GroupRow]:
        """Return the table's rows: what is on the backbone, and the stages from the last to the first."""
        h, groups = module.hparams, self.parameter_groups(module)
        head = sum(p.numel() for group in groups if group["layer"] == "head" for p in group["params"])
        rows = [GroupRow("head", head, "yes" if head_rate(h) else "solved", head_rate(h))]
        if self._updates:
            rows.append(GroupRow("lora", sum(p.numel() for p in self._updates), "yes", backbone_rate(h)))
        rates = backbone_rates(h, len(self.stages))
        for position in reversed(range(len(self.stages))):
            stage = self.stages[position]
            epoch = epoch_of_unfreezing(h, self.stages, position)
            learns = position >= self.frozen
            trainable = "yes" if learns else "no" if epoch is None else f"from epoch {epoch + 1}"
            rate = rates[position] if learns or epoch is not None else 0.0
            rows.append(GroupRow(stage.name, sum(p.numel() for p in stage.parameters), trainable, rate))
        return rows


def refuse_other_strategy(module: ExtensionPoints, checkpoint: Mapping[str, Any], frozen: int = 0) -> None:
    """Refuse to go on with the training of a checkpoint under another strategy.

    Args:
        module: The module.
        checkpoint: The checkpoint.
        frozen: How many stages the module has frozen.

    Raises:
        ValueError: If its strategy is another.
    """
    before, now = checkpoint["hyper_parameters"].get("strategy"), module.hparams["strategy"]
    count = checkpoint["lit_cv"].get("frozen_stages", 0)
    if before != now or (count != frozen and now != "gradual_unfreezing"):
        raise ValueError(
            f"the checkpoint was trained with strategy={before!r} and {count} frozen stages, this run has "
            f"strategy={now!r} and {frozen}: continue with the same, or start a new run from its weights "
            f"({argument('weights', module)})."
        )


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]
