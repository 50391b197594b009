"""Fixtures that several test files share, and what keeps the tests independent of their order."""

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
from lit_cv.figures import canvas
from tests.process_state import ProcessState, seed_generators

_FOLDER = pytest.StashKey[Path]()
_BEFORE = pytest.StashKey[ProcessState]()
_build = canvas._build

torch.set_num_threads(int(os.environ.get("LIT_CV_TEST_THREADS", "1")))
torch.ones(1, requires_grad=True).backward()  # first done after an export, it starts threads: forks could not train
torch.set_warn_always(True)  # otherwise torch warns once in a process, of what whichever test comes first does


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of tests that learn: 0, or what the environment variable LIT_CV_TEST_SEED names."""
    return int(os.environ.get("LIT_CV_TEST_SEED", "0"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that leaves out no test."""
    parser.addoption("--slow", action="store_true", help="also run the tests marked `slow`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a test that learns from one seed alone, and leave out slow ones unless they are asked for."""
    for item in items:
        if item.get_closest_marker("learns") and "seed" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} is marked `learns`: it must take the fixture `seed`.")
    if config.option.slow or config.option.markexpr:
        return
    named = tuple(argument.rpartition("::")[2] for argument in config.args if "::" in argument)
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        wanted = item.get_closest_marker("slow") is None or item.name.startswith(named)
        (kept if wanted else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture(scope="session", autouse=True)
def _folder_of_all_tests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    request.config.stash[_FOLDER] = tmp_path_factory.getbasetemp()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note the settings of the process before the fixtures of a test, those of its file included, are made."""
    item.stash[_BEFORE] = ProcessState()
    canvas._build = _build if item.get_closest_marker("draws") else _leave_blank
    return (yield)


def _leave_blank(function: object) -> Any:
    """Return a small blank figure: drawing one takes longer than training what most tests train."""
    return canvas.new_figure(1, 1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Restore the settings of the process after a test, and fail it for those that it should have restored."""
    try:
        result = yield
    finally:
        changed = item.stash[_BEFORE].restore(item.config.stash.get(_FOLDER, None))
    if changed:
        pytest.fail(f"the test leaves changed for the next one: {'; '.join(changed)}", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    """Have a fixture draw the same whichever test is the first to ask for it."""
    if fixturedef.scope != "function":
        seed_generators()
    return (yield)


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin every test with the same random numbers, and with messages that reach `caplog`."""
    seed_generators()
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
