"""Base class of custom tasks with pooled features and one loss per image."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from lit_cv.nn import Backbone
from lit_cv.tasks.base_task import BaseTask, Features
from lit_cv.tasks.loss import TaskLoss

__all__ = ["Task"]


class Task(BaseTask):
    """Base of custom tasks: a head on pooled features, and one loss per image.

    A subclass implements `configure_head` and `loss`, usually `configure_metrics` and `predict`, and `target` if the
    target is not simply an entry of the batch. Its options are typed primitives in its constructor, with `**kwargs` for
    the base class; `infer` may set options left at `None` from the data.

    Args:
        name: Name of the task, part of its metrics' names.
        key: Entry of the batch that holds the target; `None` takes `default_key`, or else the name.

    Example:
        >>> class BrightnessTask(Task):
        ...     def configure_head(self, num_features):
        ...         return nn.Linear(num_features, 1)
        ...     def target(self, batch):
        ...         return batch["image"].float().mean((1, 2, 3)) / 255
        ...     def loss(self, output, target):
        ...         return (output[:, 0] - target).square()
        >>> BrightnessTask("brightness").key
        'brightness'
    """

    @abstractmethod
    def configure_head(self, num_features: int) -> nn.Module:
        """Return the network on top of the pooled features (N, num_features)."""

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """Return the loss (M,) of each of the M images that have a target."""

    def count(self, target: Any) -> float | Tensor:
        """Return the total weight of the images of a batch in the mean loss; 1 each by default."""
        return len(target)

    def configure(self, backbone: Backbone, image_size: tuple[int, int] | None) -> nn.Module:
        """Return the head for the backbone's pooled features."""
        return self.configure_head(backbone.num_features)

    def forward(self, features: Features) -> Any:
        """Return the head's output."""
        return self.head(features.pooled)

    def batch_loss(self, output: Any, target: Any) -> TaskLoss:
        """Return the loss of M images with a target."""
        losses = self.loss(output, target)
        if losses.ndim != 1 or len(losses) != len(target):
            raise ValueError(
                f"{type(self).__name__}.loss returned the shape {tuple(losses.shape)} for {len(target)} images: it "
                f"must return one loss per image, ({len(target)},)."
            )
        return TaskLoss({"": (losses.sum(), self.count(target))}, len(losses))
