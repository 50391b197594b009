"""What modules that learn tasks share, and the module of one task."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Self, cast

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.contracts import ClassLists, class_lists, datamodule_of
from lit_cv.distributed import is_distributed
from lit_cv.metrics.chosen import check_metrics
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.modules.base_weights import restore_base
from lit_cv.modules.fine_tuning import FineTuning, refuse_other_strategy
from lit_cv.modules.fine_tuning_options import StrategyName, backbone_rate, check_options
from lit_cv.modules.task_losses import add_totals, loss_terms
from lit_cv.tasks import BaseTask, Features, TaskLoss, joined_losses

__all__ = ["TaskModule", "TasksModule"]


class TasksModule(BaseModule):
    """Base of the modules whose heads, losses, metrics and predictions are those of tasks, see `lit_cv.tasks`.

    The `strategy` tells what of a pretrained backbone learns, and how fast. The heads learn at `lr` in all of them; the
    default learning rate of the backbone, `backbone_lr`, is given in brackets:

    - `None`: everything learns alike, at `lr`.
    - `feature_extraction`: the heads alone.
    - `freeze_backbone`: the heads and the last stages (1e-4); the first `frozen_stages` are frozen.
    - `discriminative_lr`: everything, the backbone far slower (1e-5), and the slower the nearer to the image.
    - `full_finetune`: everything (1e-4).
    - `gradual_unfreezing`: the heads first, then stage after stage from the last to the first (1e-4; Howard
      and Ruder 2018, "Universal Language Model Fine-tuning", section 3.3).
    - `lora`: the heads and low-rank updates of the backbone's layers (1e-3), see `lit_cv.nn.add_lora`. Checkpoints then
      hold no weights of the backbone, but name those that were given as `weights`, which are needed to load them; an
      export holds the sum.

    What is frozen gets no gradient, stays in eval mode (the statistics of its BatchNorm do not move, its dropout is
    off) and is not in the optimizer. The stages are those of `lit_cv.nn.backbone_stages`: blocks of a vision
    transformer, stages of a convolutional network. A table at the start shows the groups, each learning rate is logged
    by name.

    Args:
        strategy: One of the above.
        backbone_lr: Learning rate of the backbone, or of its updates under `lora`; `None` takes the strategy's.
        layer_decay: Factor between the learning rates of neighboring stages. That of stage i of L, counted from
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
        lora_rank: Rank of the updates of `lora`.
        lora_alpha: Scale of the updates: they are multiplied by `lora_alpha / lora_rank`.
        lora_targets: Names of the layers that `lora` updates, such as `qkv`; `None` takes all linear layers and
            ungrouped convolutions but the first.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If options contradict each other, or a stage does not exist.
    """

    _tasks: dict[str, BaseTask]
    fine_tuning: FineTuning | None = None

    def __init__(
        self,
        strategy: StrategyName | None = None,
        backbone_lr: float | None = None,
        layer_decay: float | None = None,
        frozen_stages: int | str | None = None,
        unfreeze_epochs: int | list[int] | None = None,
        l2_sp: float = 0.0,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        lora_targets: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_options(self.hparams)
        self.fine_tuning = None if strategy is None else FineTuning(self.hparams)

    @property
    def backbone_lr(self) -> float:
        """Learning rate of the backbone, before layer-wise decay."""
        return backbone_rate(self.hparams)

    def configure_networks(self) -> None:
        """Build the networks and freeze what the strategy freezes at its start."""
        super().configure_networks()
        if self.fine_tuning is not None:
            self.fine_tuning.attach(self)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but what is frozen, which stays in eval mode."""
        super().train(mode)
        if self.fine_tuning is not None:
            self.fine_tuning.keep_frozen_in_eval_mode(self)
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups; with a strategy those of the heads and of each stage that learns."""
        return super().parameter_groups() if self.fine_tuning is None else self.fine_tuning.parameter_groups(self)

    def penalties(self) -> dict[str, Tensor]:
        """Return the terms that the strategy adds to the training loss."""
        return {} if self.fine_tuning is None else self.fine_tuning.penalties(self)

    @property
    def image_sides(self) -> tuple[int, int] | None:
        """Height and width of the images that the networks are built for."""
        size = self.hparams["image_size"]
        return (size, size) if isinstance(size, int) else None if size is None else (size[0], size[1])

    def classes_in(self, datamodule: object) -> ClassLists:
        """Return the names of the classes of every task that has some."""
        return class_lists(datamodule, *(task.class_attribute for task in self._tasks.values() if task.class_attribute))

    def declared_classes(self) -> ClassLists:
        """Return the names of the classes that the tasks were given."""
        given = {task.class_attribute: task.classes for task in self._tasks.values()}
        return {name: list(classes) for name, classes in given.items() if name and classes}

    def compiled_networks(self) -> list[nn.Module]:
        """Return the backbone where no task takes feature maps from within it."""
        return [] if any(task.map_strides for task in self._tasks.values()) else super().compiled_networks()

    def features(self, images: Tensor, tasks: Iterable[BaseTask] | None = None, pooled: bool = True) -> Features:
        """Return what the backbone gives all tasks, or some, for raw images (N, C, H, W).

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            tasks: The tasks; `None` for all.
            pooled: Whether pooled features are wanted beside feature maps.
        """
        self.configure_model()
        size = (images.shape[2], images.shape[3])
        strides = {stride for task in tasks or self._tasks.values() for stride in task.map_strides}
        if not strides:
            return Features(self.backbone(images), size)
        if not pooled:
            return Features(None, size, self.backbone.forward_maps(images, strides))
        features, maps = self.backbone.forward_both(images, strides)
        return Features(features, size, maps)

    def build_metrics(self) -> None:
        """Build the metrics, by the names that the data give the classes."""
        for task in self._tasks.values():
            task.take_names(datamodule_of(self._trainer))
        super().build_metrics()

    def on_fit_start(self) -> None:
        """Have the tasks look at the data, and begin what the strategy does."""
        for task in self._tasks.values():
            task.start(datamodule_of(self.trainer), self.device)
        if self.fine_tuning is not None:
            self.fine_tuning.begin(self)

    def on_train_epoch_start(self) -> None:
        """Free the stages whose epoch has come."""
        if self.fine_tuning is not None:
            self.fine_tuning.begin_epoch(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what going on with the strategy needs."""
        super().on_save_checkpoint(checkpoint)
        if self.fine_tuning is not None:
            self.fine_tuning.add_to_checkpoint(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the strategy of the checkpoint; refuse to go on with another one."""
        super().on_load_checkpoint(checkpoint)
        restore_base(self, checkpoint)
        if self._trainer is None or self.trainer.state.fn != "fit":
            return
        if self.fine_tuning is None:
            refuse_other_strategy(self, checkpoint)
        else:
            self.fine_tuning.take_from_checkpoint(self, checkpoint)

    def warn_of(self, task: BaseTask, stage: Stage, results: Mapping[str, Tensor]) -> None:
        """Log what a task has to say about its metrics of an epoch."""
        prefix = f"{stage}_{task.name}_" if task.name else f"{stage}_"
        if (advice := task.advice(results, stage, prefix)) and not self.trainer.sanity_checking:
            rank_zero_warn(advice)


class TaskModule(TasksModule):
    """Base of the modules of one task. A subclass gives the task, and its options as arguments of its own.

    Head, loss, metrics, predictions and messages are the task's. The networks are `backbone` and `head`, as in every
    module; the task itself is no part of the network. Options that the task leaves open are taken from the data. Those
    that are arguments of the subclass, too, are kept in checkpoints, which then load without data.

    Args:
        metrics: Metrics to log beside those of the task: names of `lit_cv.metrics.METRICS` (`kappa`, `auroc`, ...) or
            `file.Class` for a `torchmetrics.Metric` of your own, or dicts of such a `name` and the metric's arguments.
            They are logged in validation and test under the short name, or that of the class in lower case.
        **kwargs: Arguments of `BaseModule`.
    """

    def __init__(self, metrics: list[str | dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tasks = {"": self._make_task()}  # which checks its options

    @abstractmethod
    def make_task(self) -> BaseTask:
        """Return the task, without a name, from the hyperparameters; called again when the data have settled them."""

    def _make_task(self) -> BaseTask:
        task, metrics = self.make_task(), self.hparams.get("metrics")
        if metrics is not None:
            check_metrics(metrics)
            task.chosen = metrics
        return task

    @property
    def task(self) -> BaseTask:
        """The task, with the head of this module."""
        task, head = self._tasks[""], self._modules.get("head")
        if task._modules.get("head") is not head:
            task.head = cast(nn.Module, head)
        return task

    def options(self, *names: str) -> dict[str, Any]:
        """Return some of the hyperparameters."""
        return {name: self.hparams[name] for name in names}

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the task's head."""
        self._tasks = {"": self._make_task()}
        (task,) = self._tasks.values()
        datamodule = datamodule_of(self._trainer)
        found = task.infer(datamodule)
        for option, value in found.items():
            setattr(task, option, value)
        task.take_names(datamodule)
        head = task.configure(self.backbone, self.image_sides)
        self.hparams.update({name: value for name, value in (found | task.settled).items() if name in self.hparams})
        if task.map_strides:
            self.backbone.freeze_unused(task.map_strides, self.image_sides)
        return head

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the task's metrics, and those that were chosen."""
        return self.task.all_metrics()

    def forward(self, images: Tensor) -> Any:
        """Return the task's output for raw images, (N, C, H, W) uint8 or float in [0, 1]."""
        features = self.features(images, pooled=False)
        return self.task.forward(features)  # no call, for the task itself is no part of this module

    def outputs(self, batch: Batch, stage: Stage) -> Any:
        """Return the task's output for the images of a batch."""
        return self(batch["image"])

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Compare the output for a batch with its targets; images without one are left out."""
        self.configure_model()
        task, chosen = self.task, None
        target = task.target(batch)
        if target is None:
            raise ValueError(
                f"{type(self).__name__} learns from batches with {task.entries}, but this one has {', '.join(batch)}: "
                f"take {task.source}."
            )
        if not task.masks_unknown:
            chosen, target = task.select(target)
        if target is None:
            return {**self.weighed(task.no_loss(self.parameters()), stage), **dict.fromkeys(task.shown)}
        output = self.outputs(batch if chosen is None else {**batch, "image": batch["image"][chosen]}, stage)
        found = self.losses(output, target, stage)
        if stage != "train":
            found |= zip(task.shown, (task.decode(output, target), target), strict=True)
        return found

    def losses(self, output: Any, target: Any, stage: Stage) -> Output:
        """Return `loss`, the terms that it consists of, and their counts, of the images of a batch."""
        task = self.task
        task.training = stage == "train"
        return self.weighed(task.batch_loss(output, target), stage)

    def weighed(self, loss: TaskLoss, stage: Stage) -> Output:
        """Return the same from sums; in training they are those of the batch that all processes hold together."""
        if stage == "train" and is_distributed():
            loss = joined_losses({"": loss})[""]
        terms = loss_terms(self.task, loss)
        # Of several terms the loss of an epoch is made of their means, see `summarize`.
        counts = {"loss": next(iter(terms.counts.values())), **terms.counts}
        return {**terms.means, "loss": terms.loss, "counts": counts}

    def update_metrics(self, metrics: MetricCollection, output: Output) -> None:
        """Feed one batch to the metrics, those of its images that have a target."""
        names = self.task.shown
        if not output.keys() >= set(names):
            raise TypeError(
                f"{type(self).__name__}.step returned {', '.join(output)}: its metrics need {' and '.join(names)}, or "
                "an update_metrics of its own."
            )
        decoded, target = (output[name] for name in names)
        if target is not None:
            self.task.update_metrics(metrics, decoded, target)

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the means and metrics; in validation and test nothing where no image had a target."""
        if f"{stage}_loss" in values:
            if stage != "train":
                self.warn_of(self.task, stage, {name.removeprefix(f"{stage}_"): v for name, v in values.items()})
            return add_totals(values, self._tasks, f"{stage}_")
        if stage == "train":
            return values
        if not self.trainer.sanity_checking:
            lacking = self.task.lacking.format(stage=stage)
            rank_zero_warn(f"{lacking}: there are no `{stage}` loss and metrics.")
        return {}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return what the task says of the images, and where they stand in the data (`index`)."""
        output = self(batch["image"])  # builds the task
        said = self.task.predict(output, batch)
        return {**said, **{key: batch[key] for key in ("index", "label") if key in batch}}
