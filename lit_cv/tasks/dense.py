"""What the tasks of objects and of pixels share: classes by name."""

from typing import Any, ClassVar

from lit_cv.contracts import class_lists
from lit_cv.errors import argument
from lit_cv.tasks.base_task import BaseTask

__all__ = ["DenseTask"]


class DenseTask(BaseTask):
    """Base of the tasks whose head takes feature maps and tells named classes apart.

    Args:
        name: Name of the task.
        classes: Names of the classes; `None` takes them from the data.
        **kwargs: Arguments of `BaseTask`.

    Attributes:
        things: What has a class, for messages.
    """

    likelihood = "classification"
    attribute: ClassVar[str]
    things: ClassVar[str]

    def __init__(self, name: str, classes: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.classes = classes

    @property
    def class_attribute(self) -> str:
        """Attribute of a DataModule that lists the names of the classes."""
        return self.attribute

    @property
    def names(self) -> list[str]:
        """Names of the classes.

        Raises:
            ValueError: If neither the arguments nor the data tell.
        """
        if not self.classes:
            name = argument(self.qualified("classes" if self.name else self.attribute))
            raise ValueError(
                f"the classes of the {self.things}{self.of_name} are unknown: give {name}, their names, or train on "
                f"{self.source}."
            )
        return self.class_names or list(self.classes)

    def infer(self, datamodule: object) -> dict[str, Any]:
        """Take the names of the classes from the DataModule."""
        names = class_lists(datamodule, self.attribute)
        return {"classes": names[self.attribute]} if names and not self.classes else {}
