"""Programs and ranks in forked copies of the test process, since importing torch takes seconds.

Tests of the start of a program, or of its import path, run a new interpreter instead.
"""

import importlib.util
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from lit_cv.cli import console

_TIMEOUT = 300  # seconds


def start_program(
    args: list[str], folder: Path, output: Path, error: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start `lit-cv` in a new session.

    Args:
        args: Arguments of the program.
        folder: Its working directory.
        output: File for its standard output.
        error: File for its standard error.
        environment: Environment variables to set.
    """
    return _start(console, ["lit_cv", *args], folder, output, error, dict(environment or {}))


def run_program(args: list[str], folder: Path, ranks: int = 1) -> "list[subprocess.CompletedProcess[str]]":
    """Run `lit-cv` to its end, with several ranks as `torchrun` starts them.

    Returns:
        Exit code and output of each rank.
    """
    port = _free_port()
    environments = [_torchrun(rank, ranks, port) if ranks > 1 else {} for rank in range(ranks)]
    return _run_all(console, ["lit_cv", *args], folder, environments)


def run_code(code: str, *args: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python code as `python -c` does, in a process of its own, so that its memory use can be measured."""
    (ended,) = _run_all(lambda: exec(compile(code, "<code>", "exec"), {}), ["-c", *args], folder, [{}])
    return ended


def run_ranks(function: Callable[..., None], *args: Any, ranks: int = 2) -> None:
    """Call `function(rank, *args)` in a process for each rank, with the environment that `torchrun` sets.

    Raises:
        torch.multiprocessing.ProcessRaisedException: If a rank raises.
    """
    everything = (function, ranks, _free_port(), args)
    torch.multiprocessing.start_processes(_call, everything, nprocs=ranks, start_method="fork")  # type: ignore[no-untyped-call]


def _call(rank: int, function: Callable[..., None], ranks: int, port: int, args: tuple[Any, ...]) -> None:
    os.environ.update(_torchrun(rank, ranks, port))
    function(rank, *args)


def _run_all(
    function: Callable[[], Any], argv: list[str], folder: Path, environments: list[dict[str, str]]
) -> "list[subprocess.CompletedProcess[str]]":
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        started = []
        for number, environment in enumerate(environments):
            files = [Path(place) / f"{name}_{number}" for name in ("output", "error")]
            process = _start(function, argv, folder, *files, environment)
            stack.callback(_end, process)
            started.append((process, files))
        for process, _ in started:
            process.join(_TIMEOUT)
        return [
            subprocess.CompletedProcess(
                argv, -1 if process.exitcode is None else process.exitcode, *(file.read_text("utf-8") for file in files)
            )
            for process, files in started
        ]


def _start(
    function: Callable[[], Any], argv: list[str], folder: Path, output: Path, error: Path, environment: dict[str, str]
) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(function, argv, folder, output, error, environment)
    )
    process.start()
    return process


def _run(
    function: Callable[[], Any], argv: list[str], folder: Path, output: Path, error: Path, environment: dict[str, str]
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    for number, path in ((1, output), (2, error)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1, encoding="utf-8") for number in (1, 2))
    for name in (None, *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(sys.stderr)
    program = types.ModuleType("__main__")
    program.__spec__ = importlib.util.find_spec("lit_cv.__main__")  # used to start further ranks
    sys.modules["__main__"] = program
    sys.argv = argv
    function()


def _end(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
        process.join()


def _torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
