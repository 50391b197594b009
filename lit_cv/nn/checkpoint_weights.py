"""What a checkpoint of this project holds beside its backbone: hyperparameters and a classifier."""

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
_MOST_NAME = 100  # characters


def checkpoint_options(weights: str) -> Mapping[str, Any]:
    """Return the hyperparameters in a checkpoint of this project; nothing for other weights.

    Args:
        weights: As for `read_weights`.

    Raises:
        ValueError: If it is the path of a file that cannot be read as weights.
        FileNotFoundError: If the path leads nowhere.
    """
    if (file := find_file(weights)) is None:
        return {}
    with errors_named(str(file.path)):
        content = file.read()
        found = content.get("hyper_parameters") if isinstance(content, Mapping) and "lit_cv" in content else None
        found = found if isinstance(found, Mapping) else {}
        for key in ("backbone", "stem"):
            if not isinstance(found.get(key), str | None) or len(found.get(key) or "") > _MOST_NAME:
                raise ValueError(f"{file.path} is damaged: its hyperparameter {key} is no name.")
    return found


def load_head(head: nn.Module, weights: str, class_names: Sequence[str] = ()) -> bool:
    """Copy the classifier of a checkpoint of this project into a head, in place, if it has one like it.

    Its rows are those of the classes of the same names; a classifier of other classes is left out.

    Args:
        head: The head, whose tensors stand under `head.` in checkpoints.
        weights: As for `read_weights`.
        class_names: Names of the head's classes; rows are copied as they stand if they are unknown.

    Returns:
        Whether it was loaded; the log says so, too.
    """
    file = find_file(weights)
    with errors_named(weights if file is None else str(file.path)):
        content = {} if file is None else file.read()
        stored = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
        state = file.entries(content) if file is not None and stored else {}
        own = head.state_dict()
        given = {key: state[f"head.{key}"] for key in own if isinstance(state.get(f"head.{key}"), Tensor)}
        try:
            given = _ordered_rows(given, content, class_names)
        except ValueError as error:
            _LOGGER.warning("%s: %s The classifier starts from random weights.", weights, error)
            return False
        fits = bool(own) and given.keys() == own.keys() and all(given[key].shape == own[key].shape for key in own)
        if fits:
            require_real(str(file), given)
            head.load_state_dict(given)
    if not fits:
        _LOGGER.warning("%s: no classifier of this shape is in it; the classifier starts from random weights.", weights)
        return False
    _LOGGER.info("%s: the classifier was loaded, too.", weights)
    return True


def _ordered_rows(given: dict[str, Tensor], content: Any, class_names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of a classifier with their rows in the order of `class_names`."""
    extra = content.get("lit_cv") if isinstance(content, Mapping) else None
    names = extra.get("class_names") if isinstance(extra, Mapping) else None
    if not given or not class_names or not isinstance(names, list) or not names:
        return given
    rows = torch.argsort(torch.tensor(match_classes(class_names, names)))
    return {key: value[rows] if value.shape[:1] == rows.shape else value for key, value in given.items()}
