"""What every task is made of, whether a network serves it alone or with others."""

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
    """What the backbone gives the tasks.

    Attributes:
        pooled: (N, num_features); `None` where all tasks take maps.
        image_size: Height and width of the images in pixels.
        maps: Feature maps (N, channels, about H / stride, about W / stride) by stride, those that tasks asked for.
    """

    pooled: Tensor | None
    image_size: tuple[int, int] = (0, 0)
    maps: Mapping[int, Tensor] = MappingProxyType({})

    def take(self, chosen: Tensor) -> "Features":
        """Return the features of some of the images."""
        pooled = None if self.pooled is None else self.pooled[chosen]
        return self._replace(pooled=pooled, maps={s: each[chosen] for s, each in self.maps.items()})


class BaseTask(nn.Module, ABC):
    """A task of any kind: a head on what a backbone gives, a target in the batch, a loss and metrics.

    Tasks that answer from pooled features with a loss for each image derive from `Task`, which is shorter.

    Args:
        name: Name of the task, which its metrics carry; empty for the only task of a module.
        key: Entry of the batch that holds the target; `None` takes `default_key`, or the name.
        metrics: Metrics to log beside its own: names of `lit_cv.metrics.METRICS` or `file.Class`, or dicts of such a
            `name` and the metric's arguments.

    Attributes:
        parts: Names of the terms of the loss, each of which is logged apart; the empty one is the loss itself.
        default_key: Where such targets usually lie.
        map_strides: Strides of the backbone's feature maps that the head takes, known after `configure`.
        settled: Options that were left at `None` and that `configure` has chosen; they are kept in checkpoints.
        class_names: Names of the classes in the data.
        classes: Names of the classes that the task was given, or has found in the data.
        likelihood: Which form uncertainty weighting takes, see `UncertaintyWeighting`.
        score: Metric, 1 at best, that stands for the task where several are judged by one number.
        least: What a term's sum is divided by at least; with 0 a sum of nothing is no term.
        masks_unknown: Whether `batch_loss` and the metrics leave out images without a target themselves, so that a
            batch need not be searched for them.
        shown: Names under which a step returns what `decode` gives and the target, for figures.
        lacking: What data without any such target lack, for messages.
    """

    default_key: ClassVar[str | None] = None
    parts: tuple[str, ...] = ("",)
    likelihood: ClassVar[Literal["classification", "regression"]] = "regression"
    score: ClassVar[str | None] = None
    least: ClassVar[float] = 0.0
    masks_unknown: ClassVar[bool] = False
    shown: ClassVar[tuple[str, str]] = ("output", "target")
    lacking: ClassVar[str] = "no image of the {stage} data has a target"
    head: nn.Module
    classes: list[str] | None = None

    @property
    def class_attribute(self) -> str | None:
        """Attribute of a DataModule that lists the names of the task's classes; `None` for a task without classes."""
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
        """Return the head on a backbone for images of a height and width; set `map_strides` if it takes maps."""

    @abstractmethod
    def forward(self, features: Features) -> Any:
        """Return the head's output."""

    @abstractmethod
    def batch_loss(self, output: Any, target: Any) -> TaskLoss:
        """Return the loss of M images with a target, M at least 1."""

    def term(self, part: str, total: Tensor, count: float | Tensor) -> Tensor:
        """Return a term of the loss, a scalar, from its sum over images and how much that is a sum of."""
        return ratio(total, count, self.least)

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the loss from its terms by name, or from their means over an epoch; here their sum."""
        return torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Return the options that the data settle, by name; they are set, and kept in checkpoints."""
        return {}

    def start(self, datamodule: object, device: torch.device) -> None:
        """Prepare for training on data, before its first step."""

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the metrics of validation and test by name; they are logged as `{stage}_{task}_{name}`."""
        return {}

    def metric_options(self) -> dict[str, Any]:
        """Return the arguments that metrics chosen by the user get, as far as they accept them."""
        return {}

    @staticmethod
    def known_entries(output: Any, target: Any) -> tuple[Any, Any]:
        """Return what a chosen metric is fed with, of the outputs and targets that `update_metrics` feeds."""
        return known_rows(output, target)

    def chosen_metrics(self) -> dict[str, ChosenMetric]:
        """Return the metrics that the user has chosen, by name."""
        return build_metrics(self.chosen, self.metric_options(), self.known_entries)

    def all_metrics(self) -> dict[str, Metric]:
        """Return the task's metrics and those that the user has chosen.

        Raises:
            ValueError: If two have the same name.
        """
        own, chosen = self.configure_metrics(), self.chosen_metrics()
        if twice := own.keys() & chosen.keys():
            raise ValueError(f"metrics={self.chosen!r}: {', '.join(sorted(twice))} is a metric of the task already.")
        return {**own, **chosen}

    def decode(self, output: Any, target: Any) -> Any:
        """Return what metrics and figures compare with the target, here the output itself."""
        return output

    def update_metrics(self, metrics: MetricCollection, output: Any, target: Any) -> None:
        """Feed the metrics with the images of a batch that have a target, and what `decode` gave for them."""
        metrics.update(output, target)

    def advice(self, results: Mapping[str, Tensor], stage: str, prefix: str) -> str | None:
        """Return a warning about an epoch's results, which are logged with a prefix; here none."""
        return None

    def predict(self, output: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the output for a batch of N images says, by name: tensors (N, ...) or lists of N entries."""
        return {"output": output}

    def target(self, batch: Mapping[str, Any]) -> Any:
        """Return the targets of all images of a batch, a tensor or a list, `None` where the batch has none."""
        return batch.get(self.key)

    def known(self, target: Any) -> Tensor:
        """Return which images have a target, (N,) bool: where anything is not negative and, of floats, not NaN."""
        entries = target >= 0 if not target.is_floating_point() else ~target.isnan()
        return cast(Tensor, entries.flatten(1).any(1) if target.ndim > 1 else entries)

    @property
    def source(self) -> str:
        """Which data have such targets, for messages."""
        return "data that have it"

    def qualified(self, name: str) -> str:
        """Return an argument of this task as the module that holds the task has it."""
        return f"tasks.{self.name}.{name}" if self.name else name

    @property
    def of_name(self) -> str:
        """What a message adds to say of which task it is."""
        return f" of the task {self.name}" if self.name else ""

    @property
    def entries(self) -> str:
        """Entries of a batch that the target is made of, for messages."""
        return f"a `{self.key}`"

    def take_names(self, datamodule: object) -> None:
        """Take the names of the classes from the DataModule, if it lists some."""
        if self.class_attribute:
            self.class_names = class_lists(datamodule, self.class_attribute).get(self.class_attribute, self.class_names)

    def build_metrics(self) -> None:
        """Build the metrics, anew if they are there already."""
        for stage in ("val", "test"):
            if metrics := self.all_metrics():
                self.metrics[stage] = MetricCollection(dict(metrics))

    def labeled(self, batch: Mapping[str, Any]) -> tuple[Tensor | None, Any]:
        """Return which images of a batch have a target, and the targets of those; see `select`."""
        target = self.target(batch)
        return (torch.empty(0, dtype=torch.int64), None) if target is None else self.select(target)

    def select(self, target: Any) -> tuple[Tensor | None, Any]:
        """Return which images of a batch have a target, and the targets of those.

        Returns:
            Positions (M,) of the images, `None` for all of them; and M targets, `None` where M is 0.
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
        """Return the loss of no image: 0, and yet a function of all parameters, as several processes need it.

        Args:
            parameters: Those that it is a function of, the task's by default.
        """
        given = self.parameters() if parameters is None else parameters
        nothing = sum((parameter.reshape(-1)[:0].sum() for parameter in given), torch.zeros(()))
        return TaskLoss(dict.fromkeys(self.parts, (nothing, 0)), 0)

    def update(self, stage: str, output: Any, target: Any) -> None:
        """Feed the metrics of a stage with images that have a target."""
        if stage in self.metrics:
            self.update_metrics(cast(MetricCollection, self.metrics[stage]), self.decode(output, target), target)

    def results(self, stage: str) -> dict[str, Tensor]:
        """Return the metrics of a stage by name, and start anew."""
        if stage not in self.metrics:
            return {}
        metrics = cast(MetricCollection, self.metrics[stage])
        values: dict[str, Tensor] = metrics.compute()
        with torch.inference_mode(False):  # whose tensors training could not update
            metrics.reset()
        return values


TASKS: Registry[type[BaseTask]] = Registry("task", BaseTask, "lit_cv.tasks")
"""The kinds of tasks by the name that `type` takes."""
