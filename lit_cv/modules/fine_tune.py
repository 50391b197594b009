"""Fine-tuning: a pretrained backbone learns a new task."""

import logging
from collections import OrderedDict
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from lit_cv.contracts import datamodule_of
from lit_cv.errors import TRAINER, argument, setting
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.feature_cache import cache_features, check_caching, check_extraction, extract_features
from lit_cv.modules.fine_tune_options import (
    backbone_rate,
    backbone_rates,
    check_options,
    checkpoint_backbone,
    count_frozen,
    epoch_of_unfreezing,
    head_rate,
)
from lit_cv.modules.group_table import GroupRow, print_groups
from lit_cv.modules.optimization import scaled_groups
from lit_cv.modules.solved_head import solve_head
from lit_cv.modules.supervised import SupervisedModule
from lit_cv.nn import Stage as BackboneStage
from lit_cv.nn import backbone_stages
from lit_cv.optim import Layer, StepSchedule, layer_groups

__all__ = ["FineTuneModule"]

log = logging.getLogger("lit_cv")


class FineTuneModule(SupervisedModule):
    """Takes a pretrained backbone to a new task: a new classifier learns, and as much of the backbone as is wanted.

    Batches, losses and metrics are those of `SupervisedModule`. The strategies differ in what learns, and how fast.
    The classifier's learning rate is `lr` in all of them, that of the backbone `backbone_lr`:

    - `feature_extraction`: the classifier alone (backbone 0).
    - `freeze_backbone`: the classifier and the last stages (1e-4); the first `frozen_stages` stand still.
    - `discriminative_lr`: everything, the backbone far slower (1e-5), and the slower the nearer to the image.
    - `full_finetune`: everything (1e-4).
    - `gradual_unfreezing`: the classifier first, then stage after stage from the last to the first (1e-4; Howard
      and Ruder 2018, "Universal Language Model Fine-tuning", section 3.3).

    What is frozen gets no gradient, stays in eval mode (the statistics of its BatchNorm and its dropout stand still)
    and is not in the optimizer. The stages are those of `lit_cv.nn.backbone_stages`: blocks of a vision transformer,
    stages of a convolutional network. A table at the start shows the groups, each learning rate is logged by name.

    Args:
        strategy: One of the above.
        weights: Pretrained weights: the name of torchvision weights (`DEFAULT`) or the path of a checkpoint.
        backbone: Name of the network; `None` takes that of the checkpoint `weights`, `resnet9` without weights.
        backbone_lr: Learning rate of the backbone; `None` takes the strategy's.
        layer_decay: Factor between the learning rates of neighbouring stages. That of stage i of L, counted from
            1, is `backbone_lr * layer_decay ** (L - i + 1)`, as in timm where `backbone_lr` is `lr`; BEiT and MAE
            differ in the network's last norm, which has the rate of the classifier there, and here, as in timm,
            that of the last block (0.65 for 1 at a decay of 0.65). `None` takes 0.75 for `discriminative_lr` and 1
            otherwise.
        frozen_stages: Stages that stay frozen, for `freeze_backbone` and `discriminative_lr`: their number, counted
            from the image, or the name of the last of them. `None` freezes three in four, or none.
        unfreeze_epochs: When `gradual_unfreezing` frees the next stage: every so many epochs, or a list with the
            epoch of each, from the last stage on, counted from 0; stages beyond the list stay frozen. `None`: 1.
        l2_sp: Pull of the backbone towards its pretrained weights in place of its weight decay: adds
            `l2_sp / 2 * |w - w_0|^2` to the loss (Li et al. 2018, "Explicit Inductive Bias for Transfer Learning").
        normalize_features: Whether the classifier gets features of mean 0 and variance 1 in each batch, and in
            evaluation by running means, as the linear probes of MAE do (He et al. 2022, appendix A.1): features of
            a frozen backbone differ in scale, which makes the classifier slow to learn. `None`: where all of it is
            frozen, for `feature_extraction`.
        cache_features: For `feature_extraction` without augmentation: run each image through the backbone once,
            and train the classifier on the features kept in memory.
        solve_head: Whether training starts from the classifier that is best on the features of the pretrained
            backbone: an L2-regularized logistic regression, its strength chosen by cross-validation on the training
            images, see `lit_cv.optim.fit_logistic_regression`. With `feature_extraction` that is the result, and
            `lr` is without effect; with the others, the head is not random while the backbone adapts to it (Kumar
            et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").
        **kwargs: Arguments of `SupervisedModule` and `BaseModule`.

    Raises:
        ValueError: If options contradict each other, or a stage does not exist.

    Example:
        >>> module = FineTuneModule(strategy="freeze_backbone", backbone="resnet18", frozen_stages="layer2",
        ...                         num_classes=5)
        >>> module.configure_model()
        >>> [group["name"] for group in module.parameter_groups()]
        ['head.decay', 'head.no_decay', 'layer4.decay', 'layer4.no_decay', 'layer3.decay', 'layer3.no_decay']
    """

    def __init__(
        self,
        strategy: Literal[
            "feature_extraction", "freeze_backbone", "discriminative_lr", "full_finetune", "gradual_unfreezing"
        ] = "full_finetune",
        weights: str | None = None,
        backbone: str | None = None,
        backbone_lr: float | None = None,
        layer_decay: float | None = None,
        frozen_stages: int | str | None = None,
        unfreeze_epochs: int | list[int] | None = None,
        l2_sp: float = 0.0,
        normalize_features: bool | None = None,
        cache_features: bool = False,
        solve_head: bool = False,
        **kwargs: Any,
    ) -> None:
        backbone = backbone or checkpoint_backbone(weights)  # the name is what the hyperparameters hold
        super().__init__(weights=weights, backbone=backbone, **kwargs)
        check_options(self.hparams)
        self.stages: list[BackboneStage] = []
        self.frozen = 0  # stages, counted from the image
        self._restored = False
        self._start: dict[str, Tensor] | None = None  # the weights that L2-SP pulls towards
        self._features: dict[str, Tensor] = {}

    @property
    def needs_images(self) -> bool:  # type: ignore[override]
        """Whether a loader has to read images, or their features are kept in memory."""
        return not (self.hparams["cache_features"] and self._trainer is not None and self.trainer.state.fn == "fit")

    @property
    def backbone_lr(self) -> float:
        """Learning rate of the backbone, before layer-wise decay."""
        return backbone_rate(self.hparams)

    def configure_networks(self) -> None:
        """Build the networks and freeze what the strategy freezes at its start."""
        super().configure_networks()
        # Positions that are no parameters to learn in the network stay so.
        self.stages = [
            stage._replace(parameters=tuple(p for p in stage.parameters if p.requires_grad))
            for stage in backbone_stages(self.backbone.body)
        ]
        self.freeze_stages(count_frozen(self.hparams, self.stages, epoch=0))

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier behind dropout, and behind a normalisation of the features if that is wanted."""
        head = super().configure_head(num_features)
        wanted, h = self.hparams["normalize_features"], self.hparams
        if wanted is False or (wanted is None and (h["solve_head"] or h["strategy"] != "feature_extraction")):
            return head
        norm = nn.BatchNorm1d(num_features, eps=1e-6, affine=False)
        return nn.Sequential(OrderedDict(norm=norm, classifier=head))

    def freeze_stages(self, count: int) -> None:
        """Freeze the first `count` stages, counted from the image, and free the others."""
        self.frozen = count
        for position, stage in enumerate(self.stages):
            for parameter in stage.parameters:
                parameter.requires_grad_(position >= count)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but what is frozen, which stays in eval mode."""
        super().train(mode)
        for stage in self.stages[: self.frozen]:
            for module in stage.modules:
                module.eval()
        if self.stages and self.frozen == len(self.stages):
            self.backbone.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the classifier and of each stage that learns, from the last to the first."""
        h = self.hparams
        in_backbone = set(self.backbone.parameters())
        head = [parameter for parameter in self.parameters() if parameter not in in_backbone]
        layers = [Layer("head", head, head_rate(h), h["weight_decay"])]
        decay = 0.0 if h["l2_sp"] else h["weight_decay"]
        rates = backbone_rates(h, len(self.stages))
        for position in reversed(range(self.frozen, len(self.stages))):
            stage = self.stages[position]
            layers.append(Layer(stage.name, stage.parameters, rates[position], decay))
        return layer_groups(self, layers)

    def on_fit_start(self) -> None:
        """Take note of the pretrained weights, compute the features if they are kept, and show the groups."""
        super().on_fit_start()
        h = self.hparams
        if h["weights"] is None and not self._restored:
            log.warning("No weights were given (%s): the backbone starts from random ones.", argument("weights", self))
        if h["strategy"] == "gradual_unfreezing" and self.trainer.world_size > 1:
            raise ValueError(
                "strategy='gradual_unfreezing' trains on one device: data-parallel training settles at its start "
                f"which gradients it exchanges. Set {setting('devices', 1, TRAINER)} or another "
                f"{argument('strategy', self)}."
            )
        if h["l2_sp"] and self._start is None:
            self._start = {name: value.detach().clone() for name, value in self.backbone.body.named_parameters()}
        if h["cache_features"]:
            check_caching(self.trainer)
            self._features = cache_features(self)
        if h["solve_head"] and not self._restored:
            check_extraction(self.trainer, "solve_head")
            data = datamodule_of(self.trainer).train_dataset
            features = self._features["train"] if self._features else extract_features(self, data)
            solve_head(self, features, data, self.class_weight)
        if self.trainer.is_global_zero and any("ModelSummary" in type(c).__name__ for c in self._callbacks()):
            print_groups(f"{type(self).__name__}: {h['strategy']} of {h['backbone']}", self._rows())

    def on_fit_end(self) -> None:
        """Let the kept features go."""
        self._features = {}

    def on_train_epoch_start(self) -> None:
        """Free the stages whose epoch has come."""
        frozen = count_frozen(self.hparams, self.stages, self.current_epoch)
        schedule = self.lr_schedulers()
        if frozen >= self.frozen or not isinstance(schedule, StepSchedule):
            return
        held = {group["name"] for group in schedule.optimizer.param_groups}
        log.info("Epoch %d: %s learns, too.", self.current_epoch + 1, _names(self.stages[frozen : self.frozen]))
        self.freeze_stages(frozen)
        for group in scaled_groups(self):
            if group["name"] not in held:
                schedule.add_group(group)

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Classify a batch and compare with its labels; in training, compare the weights with the pretrained."""
        output = super().step(batch, stage)
        if stage == "train" and self._start is not None:
            penalty = self._distance(self._start)
            output["l2_sp"] = penalty.detach()
            output["loss"] = output["loss"] + penalty
        return output

    def outputs(self, batch: Batch, stage: Stage) -> Any:
        """Return the logits (N, K) of a batch, from the kept features where there are some."""
        if stage not in self._features:
            return super().outputs(batch, stage)
        return self.head(self._features[stage].index_select(0, batch["index"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is frozen, and the weights that L2-SP pulls towards."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lit_cv"]["frozen_stages"] = self.frozen
        if self._start is not None:
            checkpoint["lit_cv"]["l2_sp"] = self._start

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` has added; refuse to go on with another strategy."""
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None or self.trainer.state.fn != "fit":
            return
        extra = checkpoint["lit_cv"]
        self._restored = True
        before, now = (h.get("strategy") for h in (checkpoint["hyper_parameters"], self.hparams))
        gradual = now == "gradual_unfreezing"
        if before != now or (extra["frozen_stages"] != self.frozen and not gradual):
            raise ValueError(
                f"the checkpoint was trained with strategy={before!r} and {extra['frozen_stages']} frozen stages, this "
                f"run has strategy={now!r} and {self.frozen}: continue with the same, or start a new run from its "
                f"weights ({argument('weights', self)})."
            )
        self.freeze_stages(extra["frozen_stages"])
        if self.hparams["l2_sp"] and "l2_sp" in extra:
            self._start = {name: value.to(self.device) for name, value in extra["l2_sp"].items()}

    def _distance(self, start: dict[str, Tensor]) -> Tensor:
        learning = [(name, p) for name, p in self.backbone.body.named_parameters() if p.requires_grad]
        total = torch.zeros((), device=self.device)
        for name, parameter in learning:
            total = total + (parameter - start[name].to(parameter.device)).square().sum()
        return total * float(self.hparams["l2_sp"] / 2)

    def _rows(self) -> list[GroupRow]:
        """Return the table's rows: the classifier, and the stages from the last to the first."""
        h, groups = self.hparams, self.parameter_groups()
        head = sum(p.numel() for group in groups if group["layer"] == "head" for p in group["params"])
        rows = [GroupRow("head", head, "yes" if head_rate(h) else "solved", head_rate(h))]
        rates = backbone_rates(h, len(self.stages))
        for position in reversed(range(len(self.stages))):
            stage = self.stages[position]
            epoch = epoch_of_unfreezing(h, self.stages, position)
            learns = position >= self.frozen
            trainable = "yes" if learns else "no" if epoch is None else f"from epoch {epoch + 1}"
            rate = rates[position] if learns or epoch is not None else 0.0
            rows.append(GroupRow(stage.name, sum(p.numel() for p in stage.parameters), trainable, rate))
        return rows

    def _callbacks(self) -> list[Any]:
        return list(self.trainer.callbacks)  # type: ignore[attr-defined]


def _names(stages: list[BackboneStage]) -> str:
    return ", ".join(stage.name for stage in reversed(stages))
