"""The objects that a parsed configuration builds, for messages about their arguments."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from lit_cv import callbacks
from lit_cv.errors import Part
from lit_cv.registry import resolve_class

__all__ = ["GROUPS", "built_parts", "class_named"]

GROUPS: dict[str, type] = {
    "checkpoint": callbacks.RunCheckpoint,
    "early_stopping": callbacks.MonitorEarlyStopping,
    "ema": callbacks.EMA,
    "non_finite": callbacks.NonFiniteGuard,
    "predictions": callbacks.PredictionWriter,
}
"""The callbacks that every run has, by the section of their options."""


def built_parts(config: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the objects that a configuration builds, nested ones included.

    Args:
        config: The options of a verb by their sections, as the parser returns them.
    """
    for name, cls in {**GROUPS, "find_lr": object}.items():
        if name in config:
            yield Part(name, cls, config[name])
    for name in ("model", "data", "trainer"):
        yield from _named_classes(name, config.get(name))


def _named_classes(name: str, value: object) -> Iterator[Part]:
    if isinstance(value, list):
        for entry in value:
            yield from _named_classes(name, entry)
        return
    if not isinstance(value, Mapping):
        return
    path = value.get("class_path")
    arguments = value.get("init_args", {}) if isinstance(path, str) else value
    if isinstance(path, str) and isinstance(arguments, Mapping):
        yield Part(name, class_named(path), arguments)
    for key, inner in arguments.items() if isinstance(arguments, Mapping) else ():
        yield from _named_classes(f"{name}.{key}", inner)


def class_named(path: str) -> type:
    """Return the class of a name in a parsed configuration, `object` if it cannot be resolved."""
    with suppress(ValueError, ImportError):
        return resolve_class(path, object, "the configuration")
    return object
