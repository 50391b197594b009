"""Base class of detection and segmentation tasks, which have named classes."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_cv.contracts import class_lists
from lit_cv.errors import argument
from lit_cv.tasks.base_task import BaseTask
from lit_cv.tasks.class_weights import ClassWeight

__all__ = ["DenseTask"]


class DenseTask(BaseTask):
    """Base of tasks with named classes whose head uses feature maps.

    Args:
        name: Name of the task.
        classes: Names of the classes; `None` takes them from the data.
        class_weight: Weights of the classes in the training loss: `balanced`, a list of K numbers, or `None` for equal
            weights.
        **kwargs: Arguments of `BaseTask`.

    Attributes:
        things: What has a class (boxes or pixels), for messages.
    """

    likelihood = "classification"
    attribute: ClassVar[str]
    things: ClassVar[str]

    class_weight: Tensor | None

    def __init__(
        self, name: str, classes: list[str] | None = None, class_weight: ClassWeight | None = None, **kwargs: Any
    ) -> None:
        super().__init__(name, **kwargs)
        self.classes = classes
        self.weighting = class_weight
        self.register_buffer("class_weight", None, persistent=False)

    @abstractmethod
    def weigh(self, weights: ClassWeight, datamodule: object, name: str) -> Tensor:
        """Return the weights (K,) of the classes, from the value of the option `name`."""

    @property
    def loss_weight(self) -> Tensor | None:
        """Weights of the classes in the loss, `None` outside of training."""
        return self.class_weight if self.training else None

    def start(self, datamodule: object, device: torch.device) -> None:
        """Compute the weights of the classes, which may require counting targets."""
        if self.weighting is not None:
            self.class_weight = self.weigh(self.weighting, datamodule, self.qualified("class_weight")).to(device)

    @property
    def class_attribute(self) -> str:
        """Attribute of a DataModule that lists the class names."""
        return self.attribute

    @property
    def names(self) -> list[str]:
        """Names of the classes.

        Raises:
            ValueError: If neither the arguments nor the data define them.
        """
        if not self.classes:
            name = argument(self.qualified("classes" if self.name else self.attribute))
            raise ValueError(
                f"the classes of the {self.things}{self.of_name} are unknown: set {name} to their names, or train on "
                f"{self.source}."
            )
        return self.class_names or list(self.classes)

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Return the class names of the data, unless the user has set them."""
        names = class_lists(datamodule, self.attribute)
        return {"classes": names[self.attribute]} if names and not self.classes else {}
