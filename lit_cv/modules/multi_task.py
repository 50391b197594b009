"""Multi-task learning: several tasks with one backbone."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lit_cv.contracts import datamodule_of
from lit_cv.distributed import is_distributed
from lit_cv.errors import OptionError, argument
from lit_cv.loop_state import is_logging_step
from lit_cv.losses import UncertaintyWeighting
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.task_losses import Terms, add_totals, build_weighting, loss_terms
from lit_cv.modules.task_module import TasksModule
from lit_cv.modules.task_surgery import backward_with_surgery
from lit_cv.strategies import require_replicated_weights
from lit_cv.tasks import BaseTask, ClassificationTask, TaskLoss, build_tasks, joined_losses

__all__ = ["MultiTaskModule"]


class MultiTaskModule(TasksModule):
    """Learns several tasks with one backbone and a head for each (hard parameter sharing, Caruana 1997).

    From a batch with `image` (N, C, H, W) and the targets of the tasks it minimizes the weighted sum of the tasks'
    losses. The backbone processes each image once for all tasks. An image may lack a target for some tasks: a label of
    -1, a value of NaN. It is then excluded from their losses, which are means over the images with a target. A task
    without any target in a batch, or whose entry the batch lacks, is excluded from the step.

    Tasks are plain data: a `type` and its options. Types are `classification`, `multi_label`, `regression`,
    `detection`, `segmentation`, and custom classes as `file.Class`, see `lit_cv.tasks.Task`.

        tasks:
          shape: {type: classification}
          objects: {type: detection, channels: 64}
          distance: {type: regression, key: depth}

    The losses are weighted by:

    - `equal`: 1 each, the plain sum.
    - `fixed`: the weights in `task_weights`.
    - `uncertainty`: learned uncertainties, see `lit_cv.losses.UncertaintyWeighting`, initialized to the optimum for the
      first losses; the total may be negative.
    - `dwa`: the rate at which each loss falls from epoch to epoch, see `lit_cv.losses.DynamicWeightAverage`.
    - `pcgrad`: equal weights, but conflicts between the tasks' gradients of the shared parameters are removed, see
      `lit_cv.optim.surgery_backward`. This takes one backward pass through the backbone per task. With gradient
      accumulation conflicts are removed for each batch. It works on one device and with `ddp`.

    It logs `{stage}_loss` (the weighted total), `{stage}_{task}_loss` (unweighted), in validation and test the metrics
    of each task as `{stage}_{task}_{metric}`, and in training `weight_{task}`, the factor of the loss, and with
    uncertainty weighting `sigma_{task}`. The `monitor` is `val_score`, the mean over tasks of one metric each with an
    optimum of 1 (`acc`, `map`, `r2`, `map50`, `miou`; negative values count as 0). It counts all tasks equally and,
    unlike the total loss, does not depend on the weights. To select by a single task, set
    `RunCheckpoint(monitor="val_shape_acc")`.

    Args:
        tasks: The tasks by name.
        weighting: How the losses are combined.
        task_weights: Weight of each task, for `fixed`.
        weighting_lr: Learning rate of the log sigmas, for `uncertainty`; they have no weight decay.
        dwa_temperature: Temperature of `dwa`: higher values make the weights more equal.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If a task or a weight is not valid.

    Example:
        >>> tasks = {"shape": {"type": "classification", "num_classes": 8}, "depth": {"type": "regression"}}
        >>> module = MultiTaskModule(tasks, backbone="conv4")
        >>> images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> {name: tuple(output.shape) for name, output in module(images).items()}
        {'shape': (2, 8), 'depth': (2, 1)}
        >>> module(images, task="depth").shape
        torch.Size([2, 1])
    """

    monitor = "val_score"
    mode: Literal["min", "max"] = "max"

    def __init__(
        self,
        tasks: dict[str, dict[str, Any]],
        weighting: Literal["equal", "fixed", "uncertainty", "dwa", "pcgrad"] = "uncertainty",
        task_weights: dict[str, float] | None = None,
        weighting_lr: float = 0.02,
        dwa_temperature: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not weighting_lr > 0:
            raise OptionError(self, "weighting_lr", weighting_lr, "must be positive")
        self._tasks = build_tasks(tasks)  # without heads, which need the backbone
        self.weighting = build_weighting(self.hparams, self._tasks)
        self._losses: list[Tensor] = []  # of the current step, for gradient surgery
        self._surgery_weights: Tensor | None = None
        self._entries: set[str] = set()  # keys of this epoch's batches
        if not any(task.score for task in self._tasks.values()):
            self.monitor, self.mode = "val_loss", "min"

    @property
    def tasks(self) -> dict[str, BaseTask]:
        """The tasks by name."""
        return self._tasks

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the tasks, each with its head, after inferring open options from the data."""
        datamodule = datamodule_of(self._trainer)
        options = {name: dict(task_options) for name, task_options in self.hparams["tasks"].items()}
        for name, task in self._tasks.items():
            inferred = task.infer(datamodule)
            for option, value in inferred.items():
                setattr(task, option, value)
            task.take_names(datamodule)
            task.head = task.configure(self.backbone, self.image_sides)
            options[name] |= inferred | task.settled
        self.hparams["tasks"] = options
        return nn.ModuleDict(self._tasks)

    def build_metrics(self) -> None:
        """Build the metrics of the tasks."""
        super().build_metrics()
        for task in self._tasks.values():
            task.build_metrics()

    def forward(self, images: Tensor, task: str | None = None) -> Any:
        """Return the output of one task, or a dict of all outputs by name.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            task: Name of the task; `None` for all.

        Returns:
            (N, K) logits of classification, (N, D) values of regression, (N, K, H, W) logits of segmentation, the raw
            outputs of a detector; for all tasks a dict of them.

        Raises:
            ValueError: If there is no such task.
        """
        if task is not None and task not in self.tasks:
            raise ValueError(f"there is no task {task!r}: the tasks of this module are {', '.join(self.tasks)}.")
        if task is not None:
            self.configure_model()
            return self.tasks[task](self.features(images, [self.tasks[task]]))
        features = self.features(images)
        return {name: each(features) for name, each in self.tasks.items()}

    def fixed_outputs(self, images: Tensor, suppress: bool = True) -> dict[str, Tensor]:
        """Return the outputs of all tasks for raw images with fixed shapes, see `BaseTask.fixed_output`.

        Returns:
            The output of each task by its name; of a detection task `{task}_boxes`, `{task}_scores`, `{task}_labels`.
        """
        outputs: dict[str, Tensor] = {}
        for name, output in self(images).items():
            fixed = self.tasks[name].fixed_output(output, suppress)
            entries = {f"{name}_{entry}": value for entry, value in fixed.items()} if isinstance(fixed, dict) else {}
            outputs |= entries or {name: fixed}
        return outputs

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Run each task on the images with a target for it, and combine the losses.

        In validation and test it also returns `logits`, `target` and the class names of the first classification task,
        for figures.
        """
        features, task_losses = self.features(batch["image"]), {}
        shown: Output = {}
        self._entries.update(batch)
        for name, task in self.tasks.items():
            chosen, target = task.labeled(batch)
            if target is None:
                task_losses[name] = task.no_loss()
            else:
                output = task(features if chosen is None else features.take(chosen))
                task_losses[name] = task.batch_loss(output, target)
                if stage != "train":
                    task.update(stage, output, target)
                    if isinstance(task, ClassificationTask) and chosen is None and not shown:
                        names = self.trained_classes.get(task.class_attribute, [])
                        shown = {"logits": output, "target": target, "class_names": names}
        terms, present = self._terms(task_losses, stage)
        losses = {name: each.loss for name, each in terms.items()}
        for name in present:
            self.means[stage].update(terms[name].means, 0, terms[name].counts)
        if stage == "train" and (first := [name for name in self.weighting.waiting() if name in present]):
            self.weighting.start({name: losses[name].detach() for name in first})
        # Losses without targets and unused features are 0, but must be part of the graph.
        absent = [loss for name, loss in losses.items() if name not in present]
        zero = features.pooled[:0].sum()  # type: ignore[index]
        total = sum(absent, self.weighting({name: losses[name] for name in present}) + zero)
        surgery = stage == "train" and self.hparams["weighting"] == "pcgrad"
        self._losses = list(losses.values()) if surgery else []
        return {"loss": total, **shown}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backpropagate the total loss, or with gradient surgery the loss of each task."""
        losses, self._losses = self._losses, []
        if losses:
            self._surgery_weights = backward_with_surgery(self, self.tasks.values(), loss, losses)
        else:
            super().backward(loss, *args, **kwargs)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return each task's predictions as `{task}_{name}`, and the dataset positions (`index`) of the images.

        `name` is `probabilities` (N, K) in classification, `values` (N, D) in regression, lists of `boxes` (n, 4),
        `box_labels` and `scores` (n,) in detection, `masks` (N, H, W) and `confidence` (N,) in segmentation.
        """
        outputs = self(batch["image"])
        predictions = {
            f"{name}_{entry}": value
            for name, task in self.tasks.items()
            for entry, value in task.predict(outputs[name], batch).items()
        }
        return {**predictions, **{key: batch[key] for key in ("index", "label") if key in batch}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the networks, and one for a learned weighting."""
        learned = list(self.weighting.parameters())
        learned_ids = {id(parameter) for parameter in learned}
        groups = super().parameter_groups()
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in learned_ids]
        if learned:
            lr = self.hparams["weighting_lr"]
            options = {"lr": lr, "weight_decay": 0.0, "layer_adaptation": False}
            groups.append({"name": "weighting", "params": learned, **options})
        return [group for group in groups if group["params"]]

    def on_fit_start(self) -> None:
        """Prepare the tasks, and check that gradient surgery is possible if configured."""
        super().on_fit_start()
        if self.hparams["weighting"] == "pcgrad":
            if self.hparams["l2_sp"]:
                allowed = "must be 0 with weighting='pcgrad', since its gradient belongs to no task"
                raise OptionError(self, "l2_sp", self.hparams["l2_sp"], allowed)
            require_replicated_weights(self.trainer, "weighting='pcgrad'", f"another {argument('weighting', self)}")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the weights of the tasks if the Trainer logs this step."""
        if not is_logging_step(self.trainer):
            return
        weights = self.weighting.weights() if self._surgery_weights is None else self._surgery_weights
        values = {f"weight_{name}": value for name, value in zip(self.tasks, weights.detach(), strict=True)}
        if isinstance(self.weighting, UncertaintyWeighting):
            sigmas = zip(self.tasks, self.weighting.sigma().detach(), strict=True)
            values |= {f"sigma_{name}": value for name, value in sigmas}
        self.log_dict(values)

    def on_train_epoch_end(self) -> None:
        """Update the weights for the next epoch, and log this one.

        Raises:
            ValueError: If no batch had the entry that a task needs.
        """
        means = add_totals(self.means["train"].compute(), self.tasks)
        present = {name: float(means[f"{name}_loss"]) for name in self.tasks if f"{name}_loss" in means}
        for name, task in self.tasks.items():
            if name not in present and task.key not in self._entries:
                raise ValueError(
                    f"the task {name} learns from {task.key!r}, which no batch of this epoch had. The batches have "
                    f"{', '.join(sorted(self._entries))}: set tasks.{name}.key, or use {task.source}."
                )
            if name not in present:
                rank_zero_warn(f"no image of this epoch had a target for the task {name} ({task.key!r}).")
        self._entries = set()
        self.weighting.end_epoch(present)
        super().on_train_epoch_end()

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, the metrics of each task with targets, and their mean score."""
        values, scores = add_totals(values, self.tasks, f"{stage}_"), []
        for name, task in self.tasks.items():
            if stage == "train" or f"{stage}_{name}_loss" not in values:
                continue
            results = task.results(stage)
            self.warn_about(task, stage, results)
            # Undefined values, such as the IoU of a class that does not occur, are NaN.
            results = {metric: value for metric, value in results.items() if not value.isnan()}
            values |= {f"{stage}_{name}_{metric}": value for metric, value in results.items()}
            if task.score in results:
                scores.append(results[task.score].to(self.device).clamp(0, 1))
        means = {name: values[f"{stage}_{name}_loss"] for name in self.tasks if f"{stage}_{name}_loss" in values}
        if stage != "train" and means:  # independent of the division into batches
            values[f"{stage}_loss"] = self.weighting(means).detach()
        elif stage != "train":
            values.pop(f"{stage}_loss", None)
            if not self.trainer.sanity_checking:
                rank_zero_warn(f"no image of the {stage} data has a target: `{stage}` loss and metrics are not logged.")
        if scores:
            values[f"{stage}_score"] = torch.stack(scores).mean()
        return values

    def _terms(self, losses: Mapping[str, TaskLoss], stage: Stage) -> tuple[dict[str, Terms], list[str]]:
        """Return the loss terms of the tasks, and the names of those with targets in the batch on any rank."""
        if stage == "train" and is_distributed():
            losses = joined_losses(losses)
            images = torch.stack([torch.as_tensor(loss.images) for loss in losses.values()]).tolist()
        else:
            images = [loss.images for loss in losses.values()]
        terms = {name: loss_terms(self.tasks[name], loss) for name, loss in losses.items()}
        return terms, [name for name, count in zip(losses, images, strict=True) if count]
