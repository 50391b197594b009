"""What every task of a network that serves several is made of."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lit_cv.nn import Backbone

__all__ = ["Features", "Task", "TaskLoss", "known_mean"]


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


class Task(nn.Module, ABC):
    """A task: a head on the shared features, its target in the batch, its loss and its metrics.

    A subclass implements `configure_head` and `loss`, and usually `configure_metrics` and `predict`. Its own options
    are typed primitives of its constructor, with `**kwargs` for the base; what is left at `None` may be found in the
    data by `infer`.

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

    def __init__(self, name: str, key: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.key = key or self.default_key or name
        self.map_strides: tuple[int, ...] = ()
        self.metrics = nn.ModuleDict()

    @abstractmethod
    def configure_head(self, num_features: int) -> nn.Module:
        """Return the network on top of the features, which gets them pooled, (N, num_features)."""

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """Return the loss of each image, (M,), for the M images that have a target."""

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

    def forward(self, features: Features) -> Any:
        """Return the head's output."""
        return self.head(features.pooled)

    def build(self, backbone: Backbone, image_size: tuple[int, int] | None) -> None:
        """Build the head and the metrics."""
        self.head = self.configure_head(backbone.num_features)
        self.build_metrics()

    def build_metrics(self) -> None:
        """Build the metrics of validation and of the test."""
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

    def batch_loss(self, output: Any, target: Any) -> TaskLoss:
        """Return the loss of M images with a target."""
        losses = self.loss(output, target)
        if losses.ndim != 1 or len(losses) != len(target):
            raise ValueError(
                f"{type(self).__name__}.loss returned the shape {tuple(losses.shape)} for {len(target)} images: it "
                "must return a loss for each, (M,)."
            )
        return TaskLoss({"": (losses.sum(), len(losses))}, len(losses))

    def no_loss(self) -> TaskLoss:
        """Return the loss of no image: 0, and yet a function of all parameters, as several processes need it."""
        empty = torch.cat([parameter.reshape(-1)[:0] for parameter in self.parameters()])
        return TaskLoss({part: (empty.sum(), 0) for part in self.parts}, 0)

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


def known_mean(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean over the known entries of each row, (M,), of values (M, ...) that are finite everywhere."""
    kept = torch.where(known, values, 0.0).flatten(1).sum(1)
    return kept / known.flatten(1).sum(1).clamp_min(1)
