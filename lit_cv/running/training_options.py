"""Select the Trainer options of a file that only affect training: none that writes, starts or imports things."""

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
_EXCLUDED_CALLBACKS = ("LambdaCallback", "OnExceptionCheckpoint")  # calls arbitrary names; needs an output folder
_FOLDERS = ("dirpath", "save_dir", "root_dir", "folder", "log_dir", "output_dir", "default_root_dir")


def kept_options(trainer: Mapping[str, Any], ranks: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the Trainer options that a resumed run keeps, and the names of the others.

    Args:
        trainer: The `trainer` section of a file.
        ranks: Whether to keep the number of processes, up to the number of cores or devices of this machine.
    """
    kept, left_out = {}, []
    for name, value in trainer.items():
        if value is None or value is False or value in ([], {}):
            if name in (*_NUMBERS, *_FLAGS, *_WORDS):
                kept[name] = value
        elif name == "callbacks":
            kept[name], excluded = kept_callbacks(value)
            left_out += excluded
        elif _fits(name, value) or (ranks and _fits_machine(name, value)):
            kept[name] = value
        elif not (name in _RANKS and value in ("auto", 1)):
            left_out.append(f"trainer.{name}")
    if "trainer.devices" in left_out and kept.pop("strategy", None) is not None:  # it belongs to these devices
        left_out.append("trainer.strategy")
    return kept, left_out


def kept_callbacks(callbacks: Any) -> tuple[list[Any], list[str]]:
    """Return the callbacks that write only to the run folder, without arguments for other folders.

    Callbacks of modules that the user named are kept unchanged.

    Args:
        callbacks: The list of callbacks in a file.

    Returns:
        The callbacks, and descriptions of everything left out.
    """
    kept: list[Any] = []
    left_out: list[str] = []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        entry = {"class_path": callback} if isinstance(callback, str) else callback
        path = entry.get("class_path") if isinstance(entry, dict) else None
        arguments = (entry.get("init_args") or {}) if isinstance(entry, dict) else None
        if (
            not isinstance(path, str)
            or not isinstance(arguments, dict)
            or not set(entry) <= {"class_path", "init_args"}
            or any("." in str(name) for name in arguments)
        ):
            left_out.append("trainer.callbacks: an entry that is not a class with its arguments")
        elif untrusted_classes(entry):
            left_out += [
                f"{name} ({setting('trusted', name.partition('.')[0], names_of_files)})"
                for name in untrusted_classes(entry)
            ]
        elif path.rpartition(".")[2] in _EXCLUDED_CALLBACKS or not all(part.isidentifier() for part in path.split(".")):
            left_out.append(f"trainer.callbacks: {path}")
        elif _CALLBACK.fullmatch(path):
            safe = {name: value for name, value in arguments.items() if not _is_folder(name, value)}
            left_out += [f"trainer.callbacks.{name}" for name in arguments if name not in safe]
            kept.append({"class_path": path, **({"init_args": safe} if safe else {})})
        else:
            kept.append(entry)
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
    if name == "num_nodes":  # the run waits for the other nodes
        return isinstance(value, int) and ("WORLD_SIZE" in os.environ or "SLURM_JOB_ID" in os.environ)
    most = max(os.cpu_count() or 1, torch.cuda.device_count())
    if name != "devices" or isinstance(value, bool):
        return False
    if isinstance(value, list):
        return len(value) <= most and all(isinstance(device, int) and 0 <= device < most for device in value)
    return value == "auto" or (str(value).isdecimal() and int(value) <= most)


def _is_folder(name: str, value: Any) -> bool:
    """Return whether an argument of a callback sets where files are written."""
    if name == "filename":  # of Lightning's checkpoints: within the run folder unless it contains a path
        return not isinstance(value, str) or bool({"/", "\\"} & {*value}) or ".." in value
    return name in _FOLDERS and value is not None
