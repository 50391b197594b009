"""Functions that a worker of `scripts/try_gpu.py` calls, each with a fault."""

import os
import signal
import time
from typing import Any


def crash(setting: Any) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def hang(setting: Any) -> dict[str, Any]:
    time.sleep(600)
    return {}


def fail(setting: Any) -> dict[str, Any]:
    raise ValueError("of the test")


def skip(setting: Any) -> dict[str, Any]:
    from gpu_parts.setting import SkippedItemError  # type: ignore[import-not-found]

    raise SkippedItemError("not here")


def succeed(setting: Any) -> dict[str, Any]:
    return {"device": setting.device}
