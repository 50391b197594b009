"""Options of the Trainer that say how training goes, told from those that write, start and import things."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from lit_cv.errors import setting
from lit_cv.running.import_policy import untrusted_classes
from lit_cv.trust import names_of_files

__all__ = ["kept_callbacks", "kept_options"]

_NUMBERS = (
    "max_epochs", "min_epochs", "max_steps", "min_steps", "limit_train_batches", "limit_val_batches",
    "limit_test_batches", "limit_predict_batches", "overfit_batches", "val_check_interval", "check_val_every_n_epoch",
    "num_sanity_val_steps", "log_every_n_steps", "accumulate_grad_batches", "gradient_clip_val",
    "reload_dataloaders_every_n_epochs",
)  # fmt: skip
_FLAGS = (
    "deterministic", "benchmark", "inference_mode", "use_distributed_sampler", "detect_anomaly", "sync_batchnorm",
    "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "enable_autolog_hparams", "logger",
)  # fmt: skip
_WORDS = ("precision", "gradient_clip_algorithm", "accelerator", "deterministic", "max_time")
_RANKS = ("devices", "num_nodes", "strategy")
_WORD = re.compile(r"[\w:+\-]{1,40}")
_TIMES = ("weeks", "days", "hours", "minutes", "seconds")
_CALLBACK = re.compile(r"((lit_cv|lightning\.pytorch|pytorch_lightning)(\.callbacks(\.\w+)*)?\.)?[A-Za-z_]\w*")
_NOT_TAKEN = ("LambdaCallback", "OnExceptionCheckpoint")  # what calls what a name says, and what needs a place
_PLACES = ("dirpath", "save_dir", "root_dir", "folder", "log_dir", "output_dir", "default_root_dir")


def kept_options(trainer: Mapping[str, Any], ranks: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the options of a Trainer that a run goes on with, and the names of those that are left out.

    Args:
        trainer: The section of a file.
        ranks: Whether processes may be started as it says, as many as the machine has cores or devices.
    """
    kept, left_out = {}, []
    for name, value in trainer.items():
        if value is None or value is False or value in ([], {}):
            if name in (*_NUMBERS, *_FLAGS, *_WORDS):
                kept[name] = value
        elif name == "callbacks":
            kept[name], without = kept_callbacks(value)
            left_out += without
        elif _fits(name, value) or (ranks and _fits_machine(name, value)):
            kept[name] = value
        elif not (name in _RANKS and value in ("auto", 1)):
            left_out.append(f"trainer.{name}")
    if "trainer.devices" in left_out and kept.pop("strategy", None) is not None:  # which is that of these devices
        left_out.append("trainer.strategy")
    return kept, left_out


def kept_callbacks(callbacks: Any) -> tuple[list[Any], list[str]]:
    """Return the callbacks that write nowhere but in a run's folder, without the arguments that say where else.

    Those of modules that the user named stay as they are: they are code of the user's.

    Args:
        callbacks: The list of a file.
    """
    kept: list[Any] = []
    left_out: list[str] = []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        given = {"class_path": callback} if isinstance(callback, str) else callback
        path = given.get("class_path") if isinstance(given, dict) else None
        arguments = (given.get("init_args") or {}) if isinstance(given, dict) else None
        if (
            not isinstance(path, str)
            or not isinstance(arguments, dict)
            or not set(given) <= {"class_path", "init_args"}
            or any("." in str(name) for name in arguments)
        ):
            left_out.append("trainer.callbacks: an entry that is no class with its arguments")
        elif untrusted_classes(given):
            left_out += [
                f"{name} ({setting('trusted', name.partition('.')[0], names_of_files)})"
                for name in untrusted_classes(given)
            ]
        elif path.rpartition(".")[2] in _NOT_TAKEN or not all(part.isidentifier() for part in path.split(".")):
            left_out.append(f"trainer.callbacks: {path}")
        elif _CALLBACK.fullmatch(path):
            stay = {name: value for name, value in arguments.items() if not _is_place(name, value)}
            left_out += [f"trainer.callbacks.{name}" for name in arguments if name not in stay]
            kept.append({"class_path": path, **({"init_args": stay} if stay else {})})
        else:
            kept.append(given)
    return kept, left_out


def _fits(name: str, value: Any) -> bool:
    if name in _NUMBERS and isinstance(value, int | float):
        return math.isfinite(value) and abs(value) < 1e15
    if name in _FLAGS and isinstance(value, bool):
        return True
    if name == "max_time" and isinstance(value, dict):
        return all(key in _TIMES and isinstance(part, int | float) and 0 <= part < 1e9 for key, part in value.items())
    return name in _WORDS and isinstance(value, str | int) and _WORD.fullmatch(str(value)) is not None


def _fits_machine(name: str, value: Any) -> bool:
    if name == "strategy":
        return isinstance(value, str) and _WORD.fullmatch(value) is not None
    if name == "num_nodes":  # others are waited for
        return isinstance(value, int) and ("WORLD_SIZE" in os.environ or "SLURM_JOB_ID" in os.environ)
    most = max(os.cpu_count() or 1, torch.cuda.device_count())
    if name != "devices" or isinstance(value, bool):
        return False
    if isinstance(value, list):
        return len(value) <= most and all(isinstance(device, int) and 0 <= device < most for device in value)
    return value == "auto" or (str(value).isdecimal() and int(value) <= most)


def _is_place(name: str, value: Any) -> bool:
    """Tell whether an argument of a callback says where files are written."""
    if name == "filename":  # of Lightning's checkpoints, in the run's folder where it names no other
        return not isinstance(value, str) or bool({"/", "\\"} & {*value}) or ".." in value
    return name in _PLACES and value is not None
