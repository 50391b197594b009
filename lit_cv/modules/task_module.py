"""Base classes of modules that learn one or several tasks."""

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
from lit_cv.modules.base_weights import restore_base_weights
from lit_cv.modules.fine_tuning import FineTuning, require_same_strategy
from lit_cv.modules.fine_tuning_options import StrategyName, check_options
from lit_cv.modules.task_losses import add_totals, loss_terms
from lit_cv.tasks import BaseTask, Features, TaskLoss, joined_losses

__all__ = ["TaskModule", "TasksModule"]


class TasksModule(BaseModule):
    """Base of modules whose heads, losses, metrics and predictions are defined by tasks, see `lit_cv.tasks`.

    The `strategy` selects which parts of a pretrained backbone are trained, at which learning rate. The heads are
    always trained at `lr`. The default learning rate of a trained backbone, `backbone_lr`, is 1e-3 where it has
    BatchNorm, as most convolutional networks; others, such as transformers, have the one in parentheses:

    - `None`: everything is trained at `lr`.
    - `feature_extraction`: only the heads.
    - `freeze_backbone`: the heads and the last stages (1e-4); the first `frozen_stages` are frozen.
    - `discriminative_lr`: everything, at lower learning rates nearer to the image (1e-5).
    - `full_finetune`: everything (1e-4).
    - `gradual_unfreezing`: first the heads, then stage after stage from the last to the first (1e-4; Howard
      and Ruder 2018, "Universal Language Model Fine-tuning", section 3.3).
    - `lora`: the heads and low-rank updates of the backbone's layers (1e-3), see `lit_cv.nn.add_lora`. Checkpoints then
      contain no backbone weights. They refer to the pretrained `weights`, which are needed for loading. An export
      contains the sum of both.

    Frozen parts get no gradients, stay in eval mode (fixed BatchNorm statistics, no dropout) and are not in the
    optimizer. The stages are those of `lit_cv.nn.backbone_stages`: blocks of a vision transformer, stages of a
    convolutional network. A table at the start of training shows the groups, and each learning rate is logged by name.

    Args:
        strategy: One of the above.
        backbone_lr: Learning rate of the backbone, or of its updates with `lora`; `None` takes the strategy's default.
        layer_decay: Ratio between the learning rates of neighboring stages. Stage i of L, counted from 1, has
            `backbone_lr * layer_decay ** (L - i + 1)`, as in timm if `backbone_lr` is `lr`. BEiT and MAE differ for the
            network's last norm: there it has the learning rate of the classifier, here and in timm that of the last
            block (0.65 instead of 1 with a decay of 0.65). `None` means 0.75 for `discriminative_lr`, otherwise 1.
        frozen_stages: Stages that stay frozen, for `freeze_backbone` and `discriminative_lr`: their number, counted
            from the image, or the name of the last of them. `None` freezes three quarters of the stages with
            `freeze_backbone`, otherwise none.
        unfreeze_epochs: When `gradual_unfreezing` unfreezes the next stage: an interval in epochs, or a list with the
            epoch of each stage, starting with the last stage, counted from 0; stages beyond the list stay frozen.
            `None` means 1.
        l2_sp: Strength of a pull of the backbone toward its pretrained weights, instead of weight decay: adds
            `l2_sp / 2 * |w - w_0|^2` to the loss (Li et al. 2018, "Explicit Inductive Bias for Transfer Learning").
        lora_rank: Rank of the updates of `lora`.
        lora_alpha: Scale of the updates: they are multiplied by `lora_alpha / lora_rank`.
        lora_targets: Names of the layers that `lora` updates, such as `qkv`; `None` means all linear layers and
            ungrouped convolutions except the first.
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
        return 0.0 if self.fine_tuning is None else self.fine_tuning.backbone_lr(self)

    def configure_networks(self) -> None:
        """Build the networks, and freeze the parts that the strategy freezes at the start."""
        super().configure_networks()
        if self.fine_tuning is not None:
            self.fine_tuning.attach(self)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules except frozen ones, which stay in eval mode."""
        super().train(mode)
        if self.fine_tuning is not None:
            self.fine_tuning.keep_frozen_in_eval_mode(self)
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups; with a strategy, those of the heads and of each trained stage."""
        return super().parameter_groups() if self.fine_tuning is None else self.fine_tuning.parameter_groups(self)

    def penalties(self) -> dict[str, Tensor]:
        """Return the terms that the strategy adds to the training loss."""
        return {} if self.fine_tuning is None else self.fine_tuning.penalties(self)

    @property
    def image_sides(self) -> tuple[int, int] | None:
        """Height and width of the images that the networks are built for, `None` if unknown."""
        size = self.hparams["image_size"]
        return (size, size) if isinstance(size, int) else None if size is None else (size[0], size[1])

    def classes_in(self, datamodule: object) -> ClassLists:
        """Return the class names of all tasks that have classes."""
        return class_lists(datamodule, *(task.class_attribute for task in self._tasks.values() if task.class_attribute))

    def declared_classes(self) -> ClassLists:
        """Return the class names set by the tasks' options."""
        declared = {task.class_attribute: task.classes for task in self._tasks.values()}
        return {name: list(classes) for name, classes in declared.items() if name and classes}

    def compiled_networks(self) -> list[nn.Module]:
        """Return the backbone unless a task uses feature maps from within it."""
        return [] if any(task.map_strides for task in self._tasks.values()) else super().compiled_networks()

    def features(self, images: Tensor, tasks: Iterable[BaseTask] | None = None, pooled: bool = True) -> Features:
        """Return the backbone's features of raw images for all tasks or some.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            tasks: The tasks; `None` for all.
            pooled: Whether to return pooled features besides feature maps.
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
        """Build the metrics, with the class names of the data."""
        for task in self._tasks.values():
            task.take_names(datamodule_of(self._trainer))
        super().build_metrics()

    def on_fit_start(self) -> None:
        """Prepare the tasks for the data, and start the strategy."""
        for task in self._tasks.values():
            task.start(datamodule_of(self.trainer), self.device)
        if self.fine_tuning is not None:
            self.fine_tuning.begin(self)

    def on_train_epoch_start(self) -> None:
        """Unfreeze the stages that are due in this epoch."""
        if self.fine_tuning is not None:
            self.fine_tuning.begin_epoch(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the strategy."""
        super().on_save_checkpoint(checkpoint)
        if self.fine_tuning is not None:
            self.fine_tuning.add_to_checkpoint(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the strategy; raise an error if the checkpoint was trained with another one."""
        super().on_load_checkpoint(checkpoint)
        restore_base_weights(self, checkpoint)
        if self._trainer is None or self.trainer.state.fn != "fit":
            return
        if self.fine_tuning is None:
            require_same_strategy(self, checkpoint)
        else:
            self.fine_tuning.take_from_checkpoint(self, checkpoint)

    def warn_about(self, task: BaseTask, stage: Stage, results: Mapping[str, Tensor]) -> None:
        """Log the advice of a task about its metrics of an epoch."""
        prefix = f"{stage}_{task.name}_" if task.name else f"{stage}_"
        if (advice := task.advice(results, stage, prefix)) and not self.trainer.sanity_checking:
            rank_zero_warn(advice)


class TaskModule(TasksModule):
    """Base of modules with a single task. A subclass creates the task, and has the task's options as arguments.

    Head, loss, metrics, predictions and messages are the task's. The networks are `backbone` and `head`, as in every
    module; the task itself is not a submodule. Options that the task leaves open are set from the data. If they are
    arguments of the subclass, checkpoints contain their values, and load without data.

    Args:
        metrics: Additional metrics: names in `lit_cv.metrics.METRICS` (`kappa`, `auroc`, ...) or `file.Class` for a
            custom `torchmetrics.Metric`, or dicts with such a `name` and the metric's arguments. They are logged in
            validation and test under the short name, or the class name in lower case.
        **kwargs: Arguments of `BaseModule`.
    """

    def __init__(self, metrics: list[str | dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tasks = {"": self._make_task()}  # checks the options

    @abstractmethod
    def make_task(self) -> BaseTask:
        """Return the task, without a name, from the hyperparameters; called again with values from the data."""

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
        """Return the named hyperparameters."""
        return {name: self.hparams[name] for name in names}

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the task's head."""
        self._tasks = {"": self._make_task()}
        (task,) = self._tasks.values()
        datamodule = datamodule_of(self._trainer)
        inferred = task.infer(datamodule)
        for option, value in inferred.items():
            setattr(task, option, value)
        task.take_names(datamodule)
        head = task.configure(self.backbone, self.image_sides)
        self.hparams.update({name: value for name, value in (inferred | task.settled).items() if name in self.hparams})
        if task.map_strides:
            self.backbone.freeze_unused(task.map_strides, self.image_sides)
        return head

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the task's metrics and the additional ones."""
        return self.task.all_metrics()

    def forward(self, images: Tensor) -> Any:
        """Return the task's output for raw images, (N, C, H, W) uint8 or float in [0, 1]."""
        features = self.features(images, pooled=False)
        return self.task.forward(features)  # not called, since the task is not a submodule

    def fixed_outputs(self, images: Tensor, suppress: bool = True) -> Any:
        """Return the task's output for raw images, (N, C, H, W), with a fixed shape, see `BaseTask.fixed_output`."""
        output = self(images)  # builds the task
        return self.task.fixed_output(output, suppress)

    def outputs(self, batch: Batch, stage: Stage) -> Any:
        """Return the task's output for the images of a batch."""
        return self(batch["image"])

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Compute the loss of a batch, without images that have no target."""
        self.configure_model()
        task, chosen = self.task, None
        target = task.target(batch)
        if target is None:
            raise ValueError(
                f"{type(self).__name__} learns from batches with {task.entries}, but got one with {', '.join(batch)}: "
                f"use {task.source}."
            )
        if not task.masks_unknown:
            chosen, target = task.select(target)
        if target is None:
            return {**self.loss_output(task.no_loss(self.parameters()), stage), **dict.fromkeys(task.shown)}
        output = self.outputs(batch if chosen is None else {**batch, "image": batch["image"][chosen]}, stage)
        result = self.losses(output, target, stage)
        if stage != "train":
            result |= zip(task.shown, (task.decode(output, target), target), strict=True)
        return result

    def losses(self, output: Any, target: Any, stage: Stage) -> Output:
        """Return `loss`, its terms and their counts for a batch."""
        task = self.task
        task.training = stage == "train"
        return self.loss_output(task.batch_loss(output, target), stage)

    def loss_output(self, loss: TaskLoss, stage: Stage) -> Output:
        """Return `loss`, its terms and their counts from sums; in training over all ranks together."""
        if stage == "train" and is_distributed():
            loss = joined_losses({"": loss})[""]
        terms = loss_terms(self.task, loss)
        # The loss of an epoch with several terms is computed from their means in `summarize`.
        counts = {"loss": next(iter(terms.counts.values())), **terms.counts}
        return {**terms.means, "loss": terms.loss, "counts": counts}

    def update_metrics(self, metrics: MetricCollection, output: Output) -> None:
        """Update the metrics with the images of a batch that have a target."""
        names = self.task.shown
        if not output.keys() >= set(names):
            raise TypeError(
                f"{type(self).__name__}.step returned {', '.join(output)}: its metrics need {' and '.join(names)}. "
                "Return both, or override update_metrics."
            )
        decoded, target = (output[name] for name in names)
        if target is not None:
            self.task.update_metrics(metrics, decoded, target)

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return means and metrics; in validation and test nothing if no image had a target."""
        if f"{stage}_loss" in values:
            if stage != "train":
                self.warn_about(self.task, stage, {name.removeprefix(f"{stage}_"): v for name, v in values.items()})
            return add_totals(values, self._tasks, f"{stage}_")
        if stage == "train":
            return values
        if not self.trainer.sanity_checking:
            lacking = self.task.lacking.format(stage=stage)
            rank_zero_warn(f"{lacking}: `{stage}` loss and metrics are not logged.")
        return {}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the task's predictions, and the dataset positions (`index`) of the images."""
        output = self(batch["image"])  # builds the task
        predictions = self.task.predict(output, batch)
        return {**predictions, **{key: batch[key] for key in ("index", "label") if key in batch}}
