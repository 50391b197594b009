"""Checks of Trainer options that the Trainer accepts but cannot train with."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lit_cv.errors import TRAINER, OptionError

__all__ = ["check_trainer_options"]

_TIMES = ("weeks", "days", "hours", "minutes", "seconds")
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "accumulate_grad_batches": (lambda value: value >= 1, "must be a number of batches, at least 1"),
    "check_val_every_n_epoch": (
        lambda value: value >= 1,
        "must be a number of epochs, at least 1, or null to count steps",
    ),
    "gradient_clip_val": (lambda value: value >= 0, "must be a number of at least 0 (0 does not clip)"),
    "limit_train_batches": (lambda value: value != 0, "must be a number of batches, at least 1, or a fraction"),
    "log_every_n_steps": (lambda value: value >= 0, "must be a number of steps, or 0 to log no steps"),
    "max_steps": (lambda value: value != 0, "must be a number of steps, at least 1, or -1 for no limit"),
    "max_time": (
        lambda value: not isinstance(value, Mapping) or set(value) <= {*_TIMES},
        f"use the keys {', '.join(_TIMES)}",
    ),
    "num_sanity_val_steps": (lambda value: value >= -1, "must be a number of batches, or -1 for all"),
    "val_check_interval": (
        lambda value: value != 0,
        "must be a number of batches, at least 1, or a fraction of an epoch",
    ),
}


def check_trainer_options(trainer: Mapping[str, Any], fits: bool) -> None:
    """Refuse values that would fail within Lightning, or silently train nothing.

    Args:
        trainer: Arguments of the Trainer; `None` stands for its default.
        fits: Whether the Trainer will train.

    Raises:
        ValueError: If a value is not allowed.
    """
    for name, (allows, advice) in _ALLOWED.items():
        value = trainer.get(name)
        if value is None or (name in ("limit_train_batches", "max_steps") and not fits):
            continue
        if (isinstance(value, float) and math.isnan(value)) or not allows(value):
            raise OptionError(TRAINER, name, value, advice)
