"""Base class of all tasks, whether a network learns one or several."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.contracts import class_lists
from lit_cv.metrics.chosen import ChosenMetric, build_metrics, check_metrics, known_rows
from lit_cv.nn import Backbone
from lit_cv.registry import Registry
from lit_cv.tasks.loss import TaskLoss, ratio

__all__ = ["TASKS", "BaseTask", "Features"]


class Features(NamedTuple):
    """Output of the backbone for the tasks.

    Attributes:
        pooled: (N, num_features); `None` if all tasks use feature maps.
        image_size: Height and width of the images in pixels.
        maps: Feature maps (N, channels, about H / stride, about W / stride) by stride, for the strides that tasks use.
    """

    pooled: Tensor | None
    image_size: tuple[int, int] = (0, 0)
    maps: Mapping[int, Tensor] = MappingProxyType({})

    def take(self, chosen: Tensor) -> "Features":
        """Return the features of some of the images."""
        pooled = None if self.pooled is None else self.pooled[chosen]
        return self._replace(pooled=pooled, maps={s: each[chosen] for s, each in self.maps.items()})


class BaseTask(nn.Module, ABC):
    """A task of any kind: a head on features of a backbone, a target in the batch, a loss and metrics.

    Derive from the simpler `Task` if the head uses pooled features and the loss is computed per image.

    Args:
        name: Name of the task, part of its metrics' names; empty for the only task of a module.
        key: Entry of the batch that holds the target; `None` takes `default_key`, or else the name.
        metrics: Additional metrics: names in `lit_cv.metrics.METRICS` or `file.Class`, or dicts with such a `name` and
            the metric's arguments.

    Attributes:
        parts: Names of the terms of the loss, which are logged separately; the empty name is the loss itself.
        default_key: Default of `key`.
        map_strides: Strides of the backbone's feature maps that the head uses, set by `configure`.
        settled: Options left at `None`, with the values chosen by `configure`; they are saved in checkpoints.
        class_names: Names of the classes in the data.
        classes: Names of the classes set by the user or inferred from the data.
        likelihood: Form of the likelihood in uncertainty weighting, see `UncertaintyWeighting`.
        score: Metric, with an optimum of 1, that represents the task in the score over several tasks.
        least: Minimum divisor of a term's sum; with 0 a sum over nothing yields no term.
        masks_unknown: Whether `batch_loss` and the metrics ignore images without a target, so that they need not be
            removed from a batch.
        shown: Names under which a step returns the result of `decode` and the target, for figures.
        lacking: Message about data without any target.
        pipeline_tag: The Hugging Face Hub's name of what is predicted; `None` if it has none.
    """

    default_key: ClassVar[str | None] = None
    parts: tuple[str, ...] = ("",)
    likelihood: ClassVar[Literal["classification", "regression"]] = "regression"
    score: ClassVar[str | None] = None
    least: ClassVar[float] = 0.0
    masks_unknown: ClassVar[bool] = False
    shown: ClassVar[tuple[str, str]] = ("output", "target")
    lacking: ClassVar[str] = "no image of the {stage} data has a target"
    pipeline_tag: ClassVar[str | None] = None
    head: nn.Module
    classes: list[str] | None = None

    @property
    def class_attribute(self) -> str | None:
        """Attribute of a DataModule that lists the class names; `None` for a task without classes."""
        return None

    def __init__(self, name: str, key: str | None = None, metrics: list[str | dict[str, Any]] | None = None) -> None:
        super().__init__()
        check_metrics(metrics)
        self.name = name
        self.chosen = metrics
        self.key = key or self.default_key or name
        self.map_strides: tuple[int, ...] = ()
        self.settled: dict[str, Any] = {}
        self.class_names: list[str] = []
        self.metrics = nn.ModuleDict()

    @abstractmethod
    def configure(self, backbone: Backbone, image_size: tuple[int, int] | None) -> nn.Module:
        """Return the head for a backbone and an image size (height, width); set `map_strides` if it uses maps."""

    @abstractmethod
    def forward(self, features: Features) -> Any:
        """Return the head's output."""

    @abstractmethod
    def batch_loss(self, output: Any, target: Any) -> TaskLoss:
        """Return the loss of M images with a target, where M is at least 1."""

    def term(self, part: str, total: Tensor, count: float | Tensor) -> Tensor:
        """Return a term of the loss, a scalar, from its sum over images and its count."""
        return ratio(total, count, self.least)

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the loss from its terms by name, or from their means over an epoch; the sum by default."""
        return torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Return the options that the data determine, by name; they are set and saved in checkpoints."""
        return {}

    def start(self, datamodule: object, device: torch.device) -> None:
        """Prepare for training on the data, before the first step."""

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the metrics of validation and test by name, logged as `{stage}_{task}_{name}`."""
        return {}

    def metric_options(self) -> dict[str, Any]:
        """Return arguments for metrics chosen by the user; each metric gets those that it accepts."""
        return {}

    @staticmethod
    def known_entries(output: Any, target: Any) -> tuple[Any, Any]:
        """Return the inputs of a metric chosen by the user, from the inputs of `update_metrics`."""
        return known_rows(output, target)

    def chosen_metrics(self) -> dict[str, ChosenMetric]:
        """Return the metrics chosen by the user, by name."""
        return build_metrics(self.chosen, self.metric_options(), self.known_entries)

    def all_metrics(self) -> dict[str, Metric]:
        """Return the task's metrics and those chosen by the user.

        Raises:
            ValueError: If two metrics have the same name.
        """
        standard, chosen = self.configure_metrics(), self.chosen_metrics()
        if duplicates := standard.keys() & chosen.keys():
            raise ValueError(
                f"metrics={self.chosen!r}: {', '.join(sorted(duplicates))} is already a metric of the task. Remove it."
            )
        return {**standard, **chosen}

    def decode(self, output: Any, target: Any) -> Any:
        """Return what metrics and figures compare with the target; the output by default."""
        return output

    def update_metrics(self, metrics: MetricCollection, output: Any, target: Any) -> None:
        """Update the metrics with the result of `decode` and the targets, of images with a target."""
        metrics.update(output, target)

    def advice(self, results: Mapping[str, Tensor], stage: str, prefix: str) -> str | None:
        """Return a warning about an epoch's results, which are logged with `prefix`; none by default."""
        return None

    def predict(self, output: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the predictions for a batch of N images by name: tensors (N, ...) or lists of N entries."""
        return {"output": output}

    def fixed_output(self, output: Any, suppress: bool = True) -> Any:
        """Return an output whose shape depends on that of the images alone, for programs; the output by default.

        Args:
            output: The head's output.
            suppress: Whether detectors apply non-maximum suppression.

        Returns:
            A tensor, or tensors by name.
        """
        return output

    def target(self, batch: Mapping[str, Any]) -> Any:
        """Return the targets of all images of a batch, a tensor or a list, `None` if the batch has none."""
        return batch.get(self.key)

    def known(self, target: Any) -> Tensor:
        """Return which images have a target, (N,) bool: any value that is not negative, or for floats not NaN."""
        entries = target >= 0 if not target.is_floating_point() else ~target.isnan()
        return cast(Tensor, entries.flatten(1).any(1) if target.ndim > 1 else entries)

    @property
    def source(self) -> str:
        """Description of data with such targets, for messages."""
        return "data that have it"

    def qualified(self, name: str) -> str:
        """Return the name of this task's argument as an argument of the module."""
        return f"tasks.{self.name}.{name}" if self.name else name

    @property
    def of_name(self) -> str:
        """Suffix of messages that names the task, if it has a name."""
        return f" of the task {self.name}" if self.name else ""

    @property
    def entries(self) -> str:
        """Entries of a batch that form the target, for messages."""
        return f"a `{self.key}`"

    def take_names(self, datamodule: object) -> None:
        """Set the class names from the DataModule, if it lists them."""
        if self.class_attribute:
            self.class_names = class_lists(datamodule, self.class_attribute).get(self.class_attribute, self.class_names)

    def build_metrics(self) -> None:
        """Build or rebuild the metrics."""
        for stage in ("val", "test"):
            if metrics := self.all_metrics():
                self.metrics[stage] = MetricCollection(dict(metrics))

    def labeled(self, batch: Mapping[str, Any]) -> tuple[Tensor | None, Any]:
        """Return which images of a batch have a target, and these targets, see `select`."""
        target = self.target(batch)
        return (torch.empty(0, dtype=torch.int64), None) if target is None else self.select(target)

    def select(self, target: Any) -> tuple[Tensor | None, Any]:
        """Return which images of a batch have a target, and these targets.

        Returns:
            Positions (M,) of the images, `None` for all of them; and M targets, `None` if M is 0.
        """
        if len(target) == 0:
            return torch.empty(0, dtype=torch.int64), None
        known = self.known(target)
        chosen = known.nonzero()[:, 0]
        if len(chosen) == len(known):
            return None, target
        if len(chosen) == 0:
            return chosen, None
        return chosen, target[chosen] if isinstance(target, Tensor) else [target[i] for i in chosen.tolist()]

    def no_loss(self, parameters: Iterable[Tensor] | None = None) -> TaskLoss:
        """Return a loss without images: 0, but a function of all parameters, as distributed training needs it.

        Args:
            parameters: The parameters; those of the task by default.
        """
        used = self.parameters() if parameters is None else parameters
        zero = sum((parameter.reshape(-1)[:0].sum() for parameter in used), torch.zeros(()))
        return TaskLoss(dict.fromkeys(self.parts, (zero, 0)), 0)

    def update(self, stage: str, output: Any, target: Any) -> None:
        """Update the metrics of a stage with images that have a target."""
        if stage in self.metrics:
            self.update_metrics(cast(MetricCollection, self.metrics[stage]), self.decode(output, target), target)

    def results(self, stage: str) -> dict[str, Tensor]:
        """Return the metrics of a stage by name, and reset them."""
        if stage not in self.metrics:
            return {}
        metrics = cast(MetricCollection, self.metrics[stage])
        values: dict[str, Tensor] = metrics.compute()
        with torch.inference_mode(False):  # otherwise training could not update the new tensors
            metrics.reset()
        return values


TASKS: Registry[type[BaseTask]] = Registry("task", BaseTask, "lit_cv.tasks")
"""The task classes by the name used as `type`."""
