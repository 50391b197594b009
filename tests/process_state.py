"""Process-wide settings that a test must restore, so that later tests do not depend on it."""

import contextlib
import logging
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SET_BY_LIGHTNING = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""Environment variables that Lightning writes during a run: restored, but not reported."""

_SET_ON_IMPORT = (
    "PYTEST_", "KMP_", "TORCH", "_TORCH", "TRITON_", "CUBLAS_", "DISABLE_CUPTI_", "TEARDOWN_CUPTI", "MPLCONFIGDIR",
)  # fmt: skip
"""Prefixes of environment variables that pytest and compilers write once per process: they stay."""


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in SET_BY_LIGHTNING and not name.startswith(_SET_ON_IMPORT)
    }


def _set_environment(value: dict[str, str]) -> None:
    for name in _environment().keys() - value.keys():
        del os.environ[name]
    os.environ.update(value)


def _working_directory() -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    return None


def _set_working_directory(value: str | None) -> None:
    if value is not None:
        os.chdir(value)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _signals() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def _set_signals(value: list[Any]) -> None:
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), value, strict=True):
        signal.signal(number, handler)


def _set_arguments(value: list[str]) -> None:
    sys.argv = value


def _set_import_path(value: list[str]) -> None:
    sys.path[:] = value


def _start_method() -> str:
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def _set_start_method(value: str) -> None:
    multiprocessing.set_start_method(value, force=True)


def _set_default_device(value: torch.device) -> None:
    torch.set_default_device(None if value.type == "cpu" else value)  # "cpu" would slow every later call


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "the working directory": (_working_directory, _set_working_directory),
    "os.environ": (_environment, _set_environment),
    "sys.argv": (lambda: list(sys.argv), _set_arguments),
    "sys.path": (lambda: list(sys.path), _set_import_path),
    "signal handlers": (_signals, _set_signals),
    "the start method of multiprocessing": (_start_method, _set_start_method),
    "torch.get_num_threads()": (torch.get_num_threads, torch.set_num_threads),
    "torch.get_default_dtype()": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.get_default_device()": (torch.get_default_device, _set_default_device),
    "torch.is_grad_enabled()": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.use_deterministic_algorithms": (
        _deterministic,
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "torch.get_float32_matmul_precision()": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
}
"""The settings that a test must restore, each with its reader and writer."""

_LOGGERS = ("lit_cv", "lightning", "lightning.pytorch", "lightning.fabric")


class ProcessState:
    """A snapshot of the settings of this process."""

    def __init__(self) -> None:
        self._settings = {name: read() for name, (read, _) in SETTINGS.items()}
        self._libraries = {name: os.environ[name] for name in SET_BY_LIGHTNING if name in os.environ}
        self._loggers = {
            name: (logger.level, logger.propagate, logger.disabled, list(logger.handlers), list(logger.filters))
            for name in _LOGGERS
            for logger in [logging.getLogger(name)]
        }
        self._modules = set(sys.modules)

    def restore(self, folder: Path | None = None) -> list[str]:
        """Restore every setting, and return those that the test should have restored.

        Args:
            folder: Folder of the tests' files: modules imported from it are unloaded.
        """
        changed = []
        for name, (read, write) in SETTINGS.items():
            before, after = self._settings[name], read()
            if before != after:
                changed.append(f"{name} ({_difference(before, after)})")
                write(before)
        self._restore_silently()
        if folder is not None:
            for name in sys.modules.keys() - self._modules:
                if _is_from(folder, sys.modules[name]):
                    del sys.modules[name]
        return changed

    def _restore_silently(self) -> None:
        """Restore the settings that a command run in this process changes by design."""
        for name in SET_BY_LIGHTNING:
            if name in self._libraries:
                os.environ[name] = self._libraries[name]
            else:
                os.environ.pop(name, None)
        for name, (level, propagate, disabled, handlers, filters) in self._loggers.items():
            logger = logging.getLogger(name)
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
            logger.handlers[:], logger.filters[:] = handlers, filters


def _is_from(folder: Path, module: Any) -> bool:
    """Return whether a module, or a package without a file, was imported from a folder."""
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    places = [spec.origin, *(spec.submodule_search_locations or ())]
    return any(str(place).startswith(f"{folder}{os.sep}") for place in places)


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict):
        return ", ".join(sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k)))
    if isinstance(before, list):
        return ", ".join(str(item) for item in [*after, *before] if item not in before or item not in after)
    return f"{before} before, {after} after"


def seed_generators() -> None:
    """Seed the generators of this process, so that the draws of a test do not depend on earlier tests."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
