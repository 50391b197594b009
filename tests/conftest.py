"""Shared fixtures, and hooks that keep the tests independent of their order."""

import functools
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads

import pytest
import torch

from datamodules import torchvision_sets
from lit_cv.callbacks import ReverseValidation
from lit_cv.figures import canvas
from tests.process_state import ProcessState, seed_generators

_FOLDER = pytest.StashKey[Path]()
_BEFORE = pytest.StashKey[ProcessState]()
_build = canvas._build

torch.set_num_threads(int(os.environ.get("LIT_CV_TEST_THREADS", "1")))
torch.ones(1, requires_grad=True).backward()  # a first call after an export would start threads, which break forks
torch.set_warn_always(True)  # otherwise torch warns once per process, in whichever test comes first


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of tests that train: the environment variable LIT_CV_TEST_SEED, by default 0."""
    return int(os.environ.get("LIT_CV_TEST_SEED", "0"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--slow`, which runs all tests."""
    parser.addoption("--slow", action="store_true", help="also run the tests marked `slow`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse tests marked `learns` without the fixture `seed`, and deselect slow ones unless requested."""
    for item in items:
        if item.get_closest_marker("learns") and "seed" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} is marked `learns`: it must take the fixture `seed`.")
    if config.option.slow or config.option.markexpr:
        return
    requested = tuple(argument.rpartition("::")[2] for argument in config.args if "::" in argument)
    selected: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        runs = item.get_closest_marker("slow") is None or item.name.startswith(requested)
        (selected if runs else deselected).append(item)
    config.hook.pytest_deselected(items=deselected)
    items[:] = selected


@pytest.fixture(scope="session", autouse=True)
def _folder_of_all_tests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    request.config.stash[_FOLDER] = tmp_path_factory.getbasetemp()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Record the settings of the process before any fixture of a test is set up."""
    item.stash[_BEFORE] = ProcessState()
    canvas._build = _build if item.get_closest_marker("draws") else _leave_blank
    return (yield)


def _leave_blank(function: object) -> Any:
    """Return a small blank figure: drawing a real one takes longer than the training in most tests."""
    return canvas.new_figure(1, 1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Restore the settings of the process after a test, and fail the test if it should have restored them."""
    try:
        result = yield
    finally:
        changed = item.stash[_BEFORE].restore(item.config.stash.get(_FOLDER, None))
    if changed:
        pytest.fail(f"the test did not restore: {'; '.join(changed)}", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    """Seed the generators before a shared fixture, so that it does not depend on the first test that uses it."""
    if fixturedef.scope != "function":
        seed_generators()
    return (yield)


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test with the same random state, and with log messages that reach `caplog`."""
    seed_generators()
    monkeypatch.setattr(logging.getLogger("lit_cv"), "propagate", True)
    monkeypatch.setattr(ReverseValidation.__init__, "__defaults__", (2, 60))  # steps and images, for speed


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real image sets, from the environment variable LIT_CV_DATA."""
    root = os.environ.get("LIT_CV_DATA")
    if not root:
        pytest.skip("LIT_CV_DATA is not set to a folder of real images")
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
    """Cache the sets that torchvision parses for all tests with this fixture: parsing takes seconds."""
    monkeypatch.setattr(torchvision_sets, "open_set", _open_set_once)
