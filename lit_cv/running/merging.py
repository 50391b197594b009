"""Merge configurations, in which a model or data of another class starts from its defaults."""

from typing import Any

from lit_cv.errors import COMMAND, argument

__all__ = ["class_of", "merge_configurations", "merge_into", "short_name", "switch_class"]


def merge_configurations(configurations: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge configurations; later ones override earlier ones."""
    merged: dict[str, Any] = {}
    for configuration in configurations:
        merge_into(merged, configuration)
    return merged


def merge_into(base: dict[str, Any], top: dict[str, Any]) -> None:
    """Merge `top` into `base`: lists are replaced, and another class drops the arguments of the previous one."""
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            if "class_path" in value:
                switch_class(base, key, value["class_path"])
            merge_into(base[key], value)
        elif key in ("model", "data") and isinstance(value, str):
            switch_class(base, key, value)
        else:
            base[key] = value


def switch_class(config: dict[str, Any], key: str, class_path: str) -> None:
    """Set the class of the model or the data; another class than before starts from its defaults."""
    if isinstance(class_path, str) and class_path.endswith((".yaml", ".yml", ".json")):
        raise ValueError(
            f"{key}: {class_path}: give class_path and init_args here, or pass the file with "
            f"{argument('config', COMMAND)}."
        )
    if not isinstance(class_path, str):
        raise ValueError(f"{key}.class_path={str(class_path)[:80]!r}: give the name of a class.")
    before = class_of(config.get(key))
    if before is None or short_name(before) != short_name(class_path):
        config[key] = {"class_path": class_path}


def class_of(section: Any) -> str | None:
    """Return the class that a section of a configuration names, `None` if it names none."""
    path = section.get("class_path") if isinstance(section, dict) else section
    return path if isinstance(path, str) else None


def short_name(class_path: str) -> str:
    """Return the name of a class without its module."""
    return class_path.rpartition(".")[2]
