"""Fixtures that several test files share."""

import functools
import logging
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads

import pytest
import torch

from datamodules import torchvision_sets


@pytest.fixture(scope="session", autouse=True)
def _one_thread_per_worker() -> None:
    torch.set_num_threads(int(os.environ.get("LIT_CV_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of tests that learn: 0, or what the environment variable LIT_CV_TEST_SEED names."""
    return int(os.environ.get("LIT_CV_TEST_SEED", "0"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that learns from one seed alone."""
    for item in items:
        if item.get_closest_marker("learns") and "seed" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} is marked `learns`: it must take the fixture `seed`.")


@pytest.fixture(autouse=True)
def _no_seed_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo `seed_everything` of other tests, which would change the order of the data."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(autouse=True)
def _messages_reach_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo for a test what the command line in an earlier test of this process has made of the logger."""
    monkeypatch.setattr(logging.getLogger("lit_cv"), "propagate", True)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real image sets that the environment variable LIT_CV_DATA names."""
    root = os.environ.get("LIT_CV_DATA")
    if not root:
        pytest.skip("LIT_CV_DATA does not name a folder of real images")
    return Path(root)


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


_open_set_once = functools.cache(torchvision_sets.open_set)


@pytest.fixture
def parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision parse the files of a set once for all tests that ask for this: it takes seconds."""
    monkeypatch.setattr(torchvision_sets, "open_set", _open_set_once)
