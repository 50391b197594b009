"""A process that runs items, so that one that hangs or crashes ends alone."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpu_parts.setting import Setting, SkippedItemError

__all__ = ["Answer", "Worker"]

Answer = tuple[str, dict[str, Any]]
"""PASS, FAIL or SKIPPED, and values by name; `detail` is a text."""

_START = 180.0  # seconds to import torch and lit_cv, from a cold disk
_MAX_DETAIL = 300  # characters
_INTERRUPTED: Answer = ("SKIPPED", {"detail": "interrupted"})
_spawn = multiprocessing.get_context("spawn")


class Worker:
    """A process that answers one request at a time, and is replaced after a crash or a timeout.

    Args:
        setting: How the parts run.
        number: A number of this worker, for its log.
    """

    def __init__(self, setting: Setting, number: int = 0) -> None:
        self.setting = setting
        self.log = Path(setting.folder) / f"worker_{number}.log"
        self._process: Any = None
        self._pipe: Any = None
        self._closed = False

    def start(self) -> None:
        """Start the process if there is none."""
        if self._process is None:
            self.log.unlink(missing_ok=True)
            self._pipe, theirs = _spawn.Pipe()
            self._process = _spawn.Process(target=_serve, args=(theirs, self.setting, str(self.log)))
            self._process.start()
            theirs.close()

    def ask(self, module: str, function: str, *arguments: Any, seconds: float) -> Answer:
        """Call a function.

        Args:
            module: Name of the module.
            function: Name of its function.
            *arguments: Arguments of the function, before the setting.
            seconds: Time limit; a start of the process does not count.
        """
        if self._closed:
            return _INTERRUPTED
        self.start()
        for request, limit in ((None, _START), ((module, function, arguments), seconds)):
            try:
                self._pipe.send(request)
                if not self._pipe.poll(limit):
                    self.stop()
                    return "FAIL", {"detail": f"no result within {limit:.0f} s", "timeout": True}
                answer: Answer = self._pipe.recv()
            except (EOFError, OSError):
                if self._closed:
                    return _INTERRUPTED
                self._process.join(5)
                code, last = self._process.exitcode, _last_line(self.log)
                self.stop()
                return "FAIL", {"detail": f"the process ended with exit code {code}: {last}"}
        if "CUDA error" in str(answer[1].get("detail", "")):  # the device is unusable for this process
            self.stop()
        return answer

    def close(self) -> None:
        """End the process, and skip all further requests, also those that another thread waits for."""
        self._closed = True
        self.stop()

    def stop(self) -> None:
        """End the process and those that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Connection, setting: Setting, log: str) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    import torch

    torch.set_num_threads(setting.threads)
    with contextlib.suppress(EOFError):
        while True:
            request = pipe.recv()
            if request is None:
                pipe.send(("PASS", {}))
            else:
                module, function, arguments = request
                pipe.send(_answer(module, function, arguments, setting))


def _answer(module: str, function: str, arguments: tuple[Any, ...], setting: Setting) -> Answer:
    started = time.perf_counter()
    try:
        values = getattr(import_module(module), function)(*arguments, setting)
        return "PASS", {**values, "seconds": round(time.perf_counter() - started, 2)}
    except SkippedItemError as reason:
        return "SKIPPED", {"detail": str(reason)}
    except BaseException as error:
        traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return "FAIL", {"detail": text[:_MAX_DETAIL], "place": _place(error)}
    finally:
        sys.stdout.flush()


def _place(error: BaseException) -> str:
    """Return the file and line that raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1][:_MAX_DETAIL] if lines else "no output"
