"""What every task of a network that serves several is made of."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.nn import Backbone

__all__ = ["BaseTask", "Features", "TaskLoss"]


class Features(NamedTuple):
    """What the shared backbone gives every task.

    Attributes:
        pooled: (N, num_features).
        image_size: Height and width of the images in pixels.
        maps: Feature maps (N, channels, about H / stride, about W / stride) by stride, those that tasks asked for.
    """

    pooled: Tensor
    image_size: tuple[int, int] = (0, 0)
    maps: Mapping[int, Tensor] = MappingProxyType({})

    def take(self, chosen: Tensor) -> "Features":
        """Return the features of some of the images."""
        return self._replace(pooled=self.pooled[chosen], maps={s: each[chosen] for s, each in self.maps.items()})


class TaskLoss(NamedTuple):
    """The loss of a batch in a form that several processes can bring together.

    Attributes:
        parts: For each term of the loss its sum over what counts, and how much that was; the term is their ratio.
        images: Images that had a label.
    """

    parts: dict[str, tuple[Tensor, float]]
    images: int


class BaseTask(nn.Module, ABC):
    """A task of any kind: a head on what the shared backbone gives, a target in the batch, a loss and metrics.

    Tasks that answer from pooled features with a loss for each image derive from `Task`, which is shorter.

    Args:
        name: Name of the task, which its metrics carry.
        key: Entry of the batch that holds the target; `None` takes `default_key`, or the name.

    Attributes:
        parts: Names of the terms of the loss, each of which is logged apart; the empty one is not.
        default_key: Where such targets usually lie.
        map_strides: Strides of the backbone's feature maps that the head takes, known after `build`.
        likelihood: Which form uncertainty weighting takes, see `UncertaintyWeighting`.
        score: Metric, 1 at best, that stands for the task where several are judged by one number.
    """

    default_key: ClassVar[str | None] = None
    parts: tuple[str, ...] = ("",)
    likelihood: ClassVar[Literal["classification", "regression"]] = "regression"
    score: ClassVar[str | None] = None

    @property
    def class_attribute(self) -> str | None:
        """Attribute of a DataModule that lists the names of the task's classes; `None` for a task without classes."""
        return None

    def __init__(self, name: str, key: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.key = key or self.default_key or name
        self.map_strides: tuple[int, ...] = ()
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

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Return the options that the data settle, by name; they are set, and kept in checkpoints."""
        return {}

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the metrics of validation and test by name; they are logged as `{stage}_{task}_{name}`."""
        return {}

    def update_metrics(self, metrics: MetricCollection, output: Any, target: Any) -> None:
        """Feed the metrics with the images of a batch that have a target."""
        metrics.update(output, target)

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

    def build(self, backbone: Backbone, image_size: tuple[int, int] | None) -> None:
        """Build the head and the metrics."""
        self.head = self.configure(backbone, image_size)
        for stage in ("val", "test"):
            if metrics := self.configure_metrics():
                self.metrics[stage] = MetricCollection(dict(metrics))

    def labeled(self, batch: Mapping[str, Any]) -> tuple[Tensor | None, Any]:
        """Return which images of a batch have a target, and the targets of those.

        Returns:
            Positions (M,) of the images, `None` for all of them; and M targets, `None` where M is 0.
        """
        target = self.target(batch)
        if target is None or len(target) == 0:
            return torch.empty(0, dtype=torch.int64), None
        known = self.known(target)
        chosen = known.nonzero()[:, 0]
        if len(chosen) == len(known):
            return None, target
        if len(chosen) == 0:
            return chosen, None
        return chosen, target[chosen] if isinstance(target, Tensor) else [target[i] for i in chosen.tolist()]

    def no_loss(self) -> TaskLoss:
        """Return the loss of no image: 0, and yet a function of all parameters, as several processes need it."""
        nothing = sum((parameter.reshape(-1)[:0].sum() for parameter in self.parameters()), torch.zeros(()))
        return TaskLoss(dict.fromkeys(self.parts, (nothing, 0)), 0)

    def update(self, stage: str, output: Any, target: Any) -> None:
        """Feed the metrics of a stage with images that have a target."""
        if stage in self.metrics:
            self.update_metrics(cast(MetricCollection, self.metrics[stage]), output, target)

    def results(self, stage: str) -> dict[str, Tensor]:
        """Return the metrics of a stage by name, and start anew."""
        if stage not in self.metrics:
            return {}
        metrics = cast(MetricCollection, self.metrics[stage])
        values: dict[str, Tensor] = metrics.compute()
        with torch.inference_mode(False):  # whose tensors training could not update
            metrics.reset()
        return values
