"""Values of the Trainer's options that it takes, but cannot train with."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lit_cv.errors import TRAINER, OptionError

__all__ = ["check_trainer_options"]

_TIMES = ("weeks", "days", "hours", "minutes", "seconds")
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "accumulate_grad_batches": (lambda value: value >= 1, "give a number of batches from 1"),
    "check_val_every_n_epoch": (lambda value: value >= 1, "give a number of epochs from 1, or null to count steps"),
    "gradient_clip_val": (lambda value: value >= 0, "give a number from 0, which does not clip"),
    "limit_train_batches": (lambda value: value != 0, "give a number of batches from 1, or a share of them"),
    "log_every_n_steps": (lambda value: value >= 0, "give a number of steps from 1, or 0 for no steps"),
    "max_steps": (lambda value: value != 0, "give a number of steps from 1, or -1 for no limit"),
    "max_time": (lambda value: not isinstance(value, Mapping) or set(value) <= {*_TIMES}, f"name {', '.join(_TIMES)}"),
    "num_sanity_val_steps": (lambda value: value >= -1, "give a number of batches, or -1 for all"),
    "val_check_interval": (lambda value: value != 0, "give a number of batches from 1, or a share of an epoch"),
}


def check_trainer_options(trainer: Mapping[str, Any], fits: bool) -> None:
    """Refuse values that would end training in an error of Lightning's, or in none at all.

    Args:
        trainer: The Trainer's arguments; `None` is its default.
        fits: Whether it is to train.

    Raises:
        ValueError: If a value is none of those.
    """
    for name, (allows, advice) in _ALLOWED.items():
        value = trainer.get(name)
        if value is None or (name in ("limit_train_batches", "max_steps") and not fits):
            continue
        if (isinstance(value, float) and math.isnan(value)) or not allows(value):
            raise OptionError(TRAINER, name, value, advice)
