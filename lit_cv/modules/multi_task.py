"""Multi-task learning: one backbone serves several tasks at once."""

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
from lit_cv.modules.task_surgery import operate
from lit_cv.strategies import require_replicated_weights
from lit_cv.tasks import BaseTask, ClassificationTask, TaskLoss, build_tasks, joined_losses

__all__ = ["MultiTaskModule"]


class MultiTaskModule(TasksModule):
    """Learns several tasks with one backbone and a head for each (hard parameter sharing, Caruana 1997).

    From a batch with `image` (N, C, H, W) and the targets of the tasks it minimises the weighted sum of the tasks'
    losses. Images are seen once by the backbone, whatever the number of tasks. An image may lack a target for some
    tasks: a label of -1, a value of NaN. It then takes no part in their losses, which are means over the images that
    have one; a task without a target in the whole batch, or whose entry the batch lacks, is left out of the step.

    Tasks are plain data: a `type` and its options. Types are `classification`, `multi_label`, `regression`,
    `detection`, `segmentation`, and classes of your own as `file.Class`, see `lit_cv.tasks.Task`.

        tasks:
          shape: {type: classification}
          objects: {type: detection, channels: 64}
          distance: {type: regression, key: depth}

    The losses are weighted by:

    - `equal`: 1 each, the plain sum.
    - `fixed`: the weights given in `task_weights`.
    - `uncertainty`: learnt uncertainties, see `lit_cv.losses.UncertaintyWeighting`, which start at the optimum of the
      first losses; the total may be negative.
    - `dwa`: how fast each loss falls from epoch to epoch, see `lit_cv.losses.DynamicWeightAverage`.
    - `pcgrad`: equal weights, but the gradients of the shared parameters are freed from conflicts, see
      `lit_cv.optim.surgery_backward`. It goes backwards through the backbone once for every task, and, under gradient
      accumulation, frees those of each batch. It works on one device and under `ddp`.

    Logs `{stage}_loss` (the weighted total), `{stage}_{task}_loss` (as they are, unweighted), in validation and test
    the metrics of each task as `{stage}_{task}_{metric}`, and while training `weight_{task}`, what the loss is
    multiplied by, and `sigma_{task}` under uncertainty weighting. The `monitor` is `val_score`, the mean over the
    tasks of one metric each that is 1 at best (`acc`, `map`, `r2`, `map50`, `miou`; below 0 it counts as 0): it counts
    every task alike, and does not change with the weights, as the total does. Where one task is what matters, set
    `RunCheckpoint(monitor="val_shape_acc")`.

    Args:
        tasks: The tasks by name.
        weighting: How the losses become one.
        task_weights: For `fixed`, the weight of each task.
        weighting_lr: For `uncertainty`, the learning rate of the log sigmas, which are never decayed.
        dwa_temperature: For `dwa`: the higher, the more equal the weights.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If a task or a weight does not fit.

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
            raise OptionError(self, "weighting_lr", weighting_lr, "give a positive learning rate")
        self._tasks = build_tasks(tasks)  # heads come with the backbone
        self.weighting = build_weighting(self.hparams, self._tasks)
        self._losses: list[Tensor] = []  # of the step under way, for gradient surgery
        self._surgery_weights: Tensor | None = None
        self._entries: set[str] = set()  # of the batches of this epoch
        if not any(task.score for task in self._tasks.values()):
            self.monitor, self.mode = "val_loss", "min"

    @property
    def tasks(self) -> dict[str, BaseTask]:
        """The tasks by name."""
        return self._tasks

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the tasks, each with its head, after they have looked at the data."""
        datamodule = datamodule_of(self._trainer)
        options = {name: dict(given) for name, given in self.hparams["tasks"].items()}
        for name, task in self._tasks.items():
            found = task.infer(datamodule)
            for option, value in found.items():
                setattr(task, option, value)
            task.take_names(datamodule)
            task.head = task.configure(self.backbone, self.image_sides)
            options[name] |= found | task.settled
        self.hparams["tasks"] = options
        return nn.ModuleDict(self._tasks)

    def build_metrics(self) -> None:
        """Build the metrics of the tasks."""
        super().build_metrics()
        for task in self._tasks.values():
            task.build_metrics()

    def forward(self, images: Tensor, task: str | None = None) -> Any:
        """Return the output of one task, or of all by name.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            task: Name of the task; `None` for all.

        Returns:
            (N, K) logits for classes, (N, D) values for quantities, (N, K, H, W) logits for pixels, a detector's raw
            outputs for objects; for all tasks a dict of them.

        Raises:
            ValueError: If there is no such task.
        """
        if task is not None and task not in self.tasks:
            raise ValueError(f"there is no task {task!r}: this module has {', '.join(self.tasks)}.")
        if task is not None:
            self.configure_model()
            return self.tasks[task](self.features(images, [self.tasks[task]]))
        features = self.features(images)
        return {name: each(features) for name, each in self.tasks.items()}

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Run the tasks on the images of a batch that have a target for them, and weigh their losses.

        In validation and test the first classification's `logits` and `target` are returned, too, for figures, and
        the names of its classes.
        """
        features, found = self.features(batch["image"]), {}
        shown: Output = {}
        self._entries.update(batch)
        for name, task in self.tasks.items():
            chosen, target = task.labeled(batch)
            if target is None:
                found[name] = task.no_loss()
            else:
                output = task(features if chosen is None else features.take(chosen))
                found[name] = task.batch_loss(output, target)
                if stage != "train":
                    task.update(stage, output, target)
                    if isinstance(task, ClassificationTask) and chosen is None and not shown:
                        names = self.trained_classes.get(task.class_attribute, [])
                        shown = {"logits": output, "target": target, "class_names": names}
        terms, present = self._terms(found, stage)
        losses = {name: each.loss for name, each in terms.items()}
        for name in present:
            self.means[stage].update(terms[name].means, 0, terms[name].counts)
        if stage == "train" and (first := [name for name in self.weighting.waiting() if name in present]):
            self.weighting.start({name: losses[name].detach() for name in first})
        # What has no target is 0, and yet a part of the graph, as are features that no task takes.
        absent = [loss for name, loss in losses.items() if name not in present]
        nothing = features.pooled[:0].sum()  # type: ignore[index]
        total = sum(absent, self.weighting({name: losses[name] for name in present}) + nothing)
        operates = stage == "train" and self.hparams["weighting"] == "pcgrad"
        self._losses = list(losses.values()) if operates else []
        return {"loss": total, **shown}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go backwards from the total loss; with gradient surgery, from the loss of every task."""
        losses, self._losses = self._losses, []
        if losses:
            self._surgery_weights = operate(self, self.tasks.values(), loss, losses)
        else:
            super().backward(loss, *args, **kwargs)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return what each task says of the images as `{task}_{name}`, and where they stand in the data (`index`).

        `name` is `probabilities` (N, K) for classes; `values` (N, D) for quantities; lists of `boxes` (n, 4),
        `box_labels` and `scores` (n,) for objects; `masks` (N, H, W) and their `confidence` (N,) for pixels.
        """
        outputs = self(batch["image"])
        said = {
            f"{name}_{entry}": value
            for name, task in self.tasks.items()
            for entry, value in task.predict(outputs[name], batch).items()
        }
        return {**said, **{key: batch[key] for key in ("index", "label") if key in batch}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the networks, and that of the weighting if it learns."""
        learnt = list(self.weighting.parameters())
        apart = {id(parameter) for parameter in learnt}
        groups = super().parameter_groups()
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in apart]
        if learnt:
            rate = self.hparams["weighting_lr"]
            options = {"lr": rate, "weight_decay": 0.0, "layer_adaptation": False}
            groups.append({"name": "weighting", "params": learnt, **options})
        return [group for group in groups if group["params"]]

    def on_fit_start(self) -> None:
        """Refuse gradient surgery where it cannot be done; have the tasks look at the data."""
        super().on_fit_start()
        if self.hparams["weighting"] == "pcgrad":
            if self.hparams["l2_sp"]:
                allowed = "its gradient belongs to no task, as weighting='pcgrad' needs: leave it at 0"
                raise OptionError(self, "l2_sp", self.hparams["l2_sp"], allowed)
            require_replicated_weights(self.trainer, "weighting='pcgrad'", f"another {argument('weighting', self)}")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the weights of the tasks now and then."""
        if not is_logging_step(self.trainer):
            return
        weights = self.weighting.weights() if self._surgery_weights is None else self._surgery_weights
        values = {f"weight_{name}": value for name, value in zip(self.tasks, weights.detach(), strict=True)}
        if isinstance(self.weighting, UncertaintyWeighting):
            sigmas = zip(self.tasks, self.weighting.sigma().detach(), strict=True)
            values |= {f"sigma_{name}": value for name, value in sigmas}
        self.log_dict(values)

    def on_train_epoch_end(self) -> None:
        """Settle the weights of the next epoch, and log this one.

        Raises:
            ValueError: If no batch had the entry that a task learns from.
        """
        means = add_totals(self.means["train"].compute(), self.tasks)
        known = {name: float(means[f"{name}_loss"]) for name in self.tasks if f"{name}_loss" in means}
        for name, task in self.tasks.items():
            if name not in known and task.key not in self._entries:
                raise ValueError(
                    f"the task {name} learns from {task.key!r}, which no batch of this epoch had: they hold "
                    f"{', '.join(sorted(self._entries))}. Set tasks.{name}.key, or take {task.source}."
                )
            if name not in known:
                rank_zero_warn(f"no image of this epoch had a target for the task {name} ({task.key!r}).")
        self._entries = set()
        self.weighting.end_epoch(known)
        super().on_train_epoch_end()

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, the metrics of each task that had targets, and their mean score."""
        values, scores = add_totals(values, self.tasks, f"{stage}_"), []
        for name, task in self.tasks.items():
            if stage == "train" or f"{stage}_{name}_loss" not in values:
                continue
            results = task.results(stage)
            self.warn_of(task, stage, results)
            # What cannot be told, such as the IoU of a class that does not occur, is NaN.
            results = {metric: value for metric, value in results.items() if not value.isnan()}
            values |= {f"{stage}_{name}_{metric}": value for metric, value in results.items()}
            if task.score in results:
                scores.append(results[task.score].to(self.device).clamp(0, 1))
        means = {name: values[f"{stage}_{name}_loss"] for name in self.tasks if f"{stage}_{name}_loss" in values}
        if stage != "train" and means:  # the total of the means, whatever the batches that they came in
            values[f"{stage}_loss"] = self.weighting(means).detach()
        elif stage != "train":
            values.pop(f"{stage}_loss", None)
            if not self.trainer.sanity_checking:
                rank_zero_warn(f"no image of the {stage} data has a target: there are no `{stage}` loss and metrics.")
        if scores:
            values[f"{stage}_score"] = torch.stack(scores).mean()
        return values

    def _terms(self, found: Mapping[str, TaskLoss], stage: Stage) -> tuple[dict[str, Terms], list[str]]:
        """Return the losses of the tasks, and which of them have targets in the batch, on any process."""
        if stage == "train" and is_distributed():
            found = joined_losses(found)
            images = torch.stack([torch.as_tensor(loss.images) for loss in found.values()]).tolist()
        else:
            images = [loss.images for loss in found.values()]
        terms = {name: loss_terms(self.tasks[name], loss) for name, loss in found.items()}
        return terms, [name for name, count in zip(found, images, strict=True) if count]
