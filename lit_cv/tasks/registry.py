"""Tasks by name, and from plain data."""

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from lit_cv.registry import is_trusted, untrusted
from lit_cv.suggest import nearest
from lit_cv.tasks.base_task import BaseTask
from lit_cv.tasks.classification import ClassificationTask, MultiLabelTask
from lit_cv.tasks.detection import DetectionTask
from lit_cv.tasks.regression import RegressionTask
from lit_cv.tasks.segmentation import SegmentationTask

__all__ = ["TASKS", "build_task", "build_tasks"]

TASKS: dict[str, type[BaseTask]] = {
    "classification": ClassificationTask,
    "multi_label": MultiLabelTask,
    "regression": RegressionTask,
    "detection": DetectionTask,
    "segmentation": SegmentationTask,
}
"""The kinds of tasks by the name that `type` takes. Others are named by their class, `module.Class`."""


def build_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, BaseTask]:
    """Make tasks of plain data, as a configuration holds them.

    Args:
        tasks: For each name of a task its `type`, one of `TASKS` or `module.Class`, and the options of that class.

    Raises:
        ValueError: If there is no task, or a name, type or option does not fit.

    Example:
        >>> tasks = build_tasks({"shape": {"type": "classification"}, "depth": {"type": "regression"}})
        >>> tasks["shape"].key, tasks["depth"].key
        ('label', 'depth')
    """
    if not isinstance(tasks, Mapping) or not tasks:
        raise ValueError("tasks is empty: give each task by its name, such as {shape: {type: classification}}.")
    return {name: build_task(name, options) for name, options in tasks.items()}


def build_task(name: str, options: Mapping[str, Any]) -> BaseTask:
    """Make one task; see `build_tasks`."""
    if not re.fullmatch(r"[a-z]\w*", str(name)) or name.endswith("_") or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"a task cannot be named {name!r}: take lower-case letters, digits and underscores, and no name that a "
            "torch module has, such as `type` or `train`."
        )
    if not isinstance(options, Mapping) or "type" not in options:
        raise ValueError(f"tasks.{name}={options!r}: give its type, such as {{type: classification}}.")
    given = {key: value for key, value in options.items() if key != "type"}
    cls = _find_class(name, str(options["type"]))
    allowed = _options(cls)
    for option in given:
        if option not in allowed:
            raise ValueError(
                f"tasks.{name} has no option {option!r}{nearest(option, allowed)} {cls.__name__} has "
                f"{', '.join(sorted(allowed))}."
            )
    try:
        return cls(name=name, **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tasks.{name}: {error}") from error


def _find_class(name: str, kind: str) -> type[BaseTask]:
    if kind in TASKS:
        return TASKS[kind]
    module, _, class_name = kind.rpartition(".")
    if not module:
        raise ValueError(
            f"tasks.{name}.type={kind!r} is none of {', '.join(TASKS)}{nearest(kind, TASKS)} A class of your own is "
            "named with its file: file.Class."
        )
    source = f"tasks.{name}.type={kind!r}"
    if not is_trusted(kind):
        raise untrusted(kind, source)
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the file is there, and imports what is not
        raise ValueError(f"{source}: there is no file or package {module}.") from None
    if getattr(home, class_name, None) is None:
        own = [cls for cls, value in vars(home).items() if _is_task(value) and value.__module__.startswith(module)]
        raise ValueError(f"{source}: {module} has no {class_name}{nearest(class_name, own)}")
    if not _is_task(found := getattr(home, class_name)):
        raise ValueError(f"{source} is no subclass of lit_cv.tasks.Task.")
    task: type[BaseTask] = found
    return task


def _is_task(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseTask)


def _options(cls: type[BaseTask]) -> set[str]:
    """Return the names of the options that the constructors of a class and its bases take."""
    names: set[str] = set()
    for base in cls.__mro__:
        if issubclass(base, BaseTask) and "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names - {"self", "name"}
