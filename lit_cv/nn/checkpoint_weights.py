"""Hyperparameters and classifier of a lit_cv checkpoint."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_cv.class_matching import match_classes
from lit_cv.nn.weight_errors import errors_named, require_real
from lit_cv.nn.weight_files import find_file

__all__ = ["checkpoint_options", "load_head"]

_LOGGER = logging.getLogger("lit_cv")
_MAX_NAME = 100  # characters


def checkpoint_options(weights: str) -> Mapping[str, Any]:
    """Return the hyperparameters in a lit_cv checkpoint; an empty mapping for other weights.

    Args:
        weights: As for `read_weights`.

    Raises:
        ValueError: If the file cannot be read as weights.
        FileNotFoundError: If there is no such file.
    """
    if (file := find_file(weights)) is None:
        return {}
    with errors_named(str(file.path)):
        content = file.read()
        stored = content.get("hyper_parameters") if isinstance(content, Mapping) and "lit_cv" in content else None
        options = stored if isinstance(stored, Mapping) else {}
        for key in ("backbone", "stem"):
            if not isinstance(options.get(key), str | None) or len(options.get(key) or "") > _MAX_NAME:
                raise ValueError(f"{file.path} is damaged: its hyperparameter {key} is not a name.")
    return options


def load_head(head: nn.Module, weights: str, class_names: Sequence[str] = ()) -> bool:
    """Copy the classifier of a lit_cv checkpoint into a head, in place, if the shapes agree.

    Rows are matched by class name; a classifier with other classes is not loaded.

    Args:
        head: The head; checkpoints store its tensors under `head.`.
        weights: As for `read_weights`.
        class_names: Names of the head's classes; if they are unknown, rows are copied in their stored order.

    Returns:
        Whether it was loaded; this is logged, too.
    """
    file = find_file(weights)
    with errors_named(weights if file is None else str(file.path)):
        content = {} if file is None else file.read()
        stored = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
        state = file.entries(content) if file is not None and stored else {}
        current = head.state_dict()
        loaded = {key: state[f"head.{key}"] for key in current if isinstance(state.get(f"head.{key}"), Tensor)}
        try:
            loaded = _ordered_rows(loaded, content, class_names)
        except ValueError as error:
            _LOGGER.warning("%s: %s The classifier starts from random weights.", weights, error)
            return False
        same_keys = bool(current) and loaded.keys() == current.keys()
        fits = same_keys and all(loaded[key].shape == current[key].shape for key in current)
        if fits:
            require_real(str(file), loaded)
            head.load_state_dict(loaded)
    if not fits:
        _LOGGER.warning("%s: it has no classifier of this shape; the classifier starts from random weights.", weights)
        return False
    _LOGGER.info("%s: the classifier was loaded, too.", weights)
    return True


def _ordered_rows(tensors: dict[str, Tensor], content: Any, class_names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of a classifier with their rows in the order of `class_names`."""
    extra = content.get("lit_cv") if isinstance(content, Mapping) else None
    names = extra.get("class_names") if isinstance(extra, Mapping) else None
    if not tensors or not class_names or not isinstance(names, list) or not names:
        return tensors
    rows = torch.argsort(torch.tensor(match_classes(class_names, names)))
    return {key: value[rows] if value.shape[:1] == rows.shape else value for key, value in tensors.items()}
