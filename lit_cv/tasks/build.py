"""Building of tasks from plain data."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from lit_cv.registry import resolve
from lit_cv.signatures import build
from lit_cv.tasks.base_task import TASKS, BaseTask

__all__ = ["build_task", "build_tasks"]


def build_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, BaseTask]:
    """Build tasks from plain data, such as a configuration.

    Args:
        tasks: Options of each task by its name: `type`, one of `TASKS` or `file.Class` for a custom subclass of
            `BaseTask`, and the arguments of that class.

    Raises:
        ValueError: If there are no tasks, or a name, type or option is not valid.

    Example:
        >>> tasks = build_tasks({"shape": {"type": "classification"}, "depth": {"type": "regression"}})
        >>> tasks["shape"].key, tasks["depth"].key
        ('label', 'depth')
    """
    if not isinstance(tasks, Mapping) or not tasks:
        raise ValueError("tasks is empty: set each task by its name, such as {shape: {type: classification}}.")
    return {name: build_task(name, options) for name, options in tasks.items()}


def build_task(name: str, options: Mapping[str, Any]) -> BaseTask:
    """Build one task, see `build_tasks`."""
    if not re.fullmatch(r"[a-z]\w*", str(name)) or name.endswith("_") or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"{name!r} is not a valid task name: use lower-case letters, digits and underscores, and no name that a "
            "torch module already has, such as `type` or `train`."
        )
    if not isinstance(options, Mapping) or "type" not in options:
        raise ValueError(f"tasks.{name}={options!r}: the type is missing. Set it, as in {{type: classification}}.")
    if "name" in options:
        raise ValueError(f"tasks.{name}.name={options['name']!r}: a task is named by its key, here {name}. Remove it.")
    kind = resolve(options["type"], TASKS, f"tasks.{name}.type")
    arguments = {key: value for key, value in options.items() if key != "type"}
    return build(kind, f"tasks.{name}", arguments, offered={"name": name})
