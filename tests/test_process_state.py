"""The code that keeps the tests independent of their order is correct."""

import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.process_state import SETTINGS, ProcessState, seed_generators

CHANGES: dict[str, Callable[[], object]] = {
    "the working directory": lambda: os.chdir("/"),
    "os.environ": lambda: os.environ.update(LIT_CV_TEST="1"),
    "sys.argv": lambda: sys.argv.append("more"),
    "sys.path": lambda: sys.path.append("more"),
    "signal handlers": lambda: signal.signal(signal.SIGINT, lambda *_: None),
    "the start method of multiprocessing": lambda: SETTINGS["the start method of multiprocessing"][1]("spawn"),
    "torch.get_num_threads()": lambda: torch.set_num_threads(2),
    "torch.get_default_dtype()": lambda: torch.set_default_dtype(torch.float64),
    "torch.get_default_device()": lambda: torch.set_default_device("meta"),
    "torch.is_grad_enabled()": lambda: torch.set_grad_enabled(False),
    "torch.use_deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True),
    "torch.get_float32_matmul_precision()": lambda: torch.set_float32_matmul_precision("medium"),
}


def test_all_settings_are_covered() -> None:
    assert CHANGES.keys() == SETTINGS.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_changed_setting_is_reported_and_restored(name: str) -> None:
    state, before = ProcessState(), SETTINGS[name][0]()
    CHANGES[name]()
    changed = state.restore()
    assert len(changed) == 1
    assert changed[0].startswith(f"{name} (")
    assert SETTINGS[name][0]() == before
    assert ProcessState().restore() == []


def test_cli_changes_are_restored_silently(tmp_path: Path) -> None:
    state, logger = ProcessState(), logging.getLogger("lit_cv")
    before = (logger.level, logger.propagate, list(logger.handlers))
    os.environ["PL_GLOBAL_SEED"] = "17"
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    assert state.restore() == []
    assert "PL_GLOBAL_SEED" not in os.environ
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_modules_of_tests_are_unloaded(in_tmp: Path) -> None:
    (in_tmp / "module_of_a_test.py").write_text("X = 1\n")
    (in_tmp / "package_of_a_test").mkdir()
    state = ProcessState()
    __import__("module_of_a_test")
    __import__("package_of_a_test")
    __import__("colorsys")
    assert state.restore(in_tmp) == []
    assert "colorsys" in sys.modules
    assert not {"module_of_a_test", "package_of_a_test"} & sys.modules.keys()


def test_tests_start_with_same_seed() -> None:
    first = random.random(), np.random.rand(), float(torch.rand(()))
    seed_generators()
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == first


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_deprecation_warning_is_error(category: type[Warning]) -> None:
    with pytest.raises(category):
        warnings.warn("will be removed", category, stacklevel=1)


@pytest.mark.parametrize("time", ["first", "second"])
def test_lost_gradient_warning_is_error(time: str) -> None:
    with pytest.raises(UserWarning, match="requires_grad=True to a scalar"):
        float(torch.ones((), requires_grad=True))
